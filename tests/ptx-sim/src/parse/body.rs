//! A kernel's body: scopes, declarations, labels and instructions (PTX ISA 4.3 and 4.4).

use std::collections::BTreeMap;

use super::cursor::Cursor;
use super::lex::{Kind, Token};
use super::module::{Layout, Variable, declaration};
use super::operand::Arguments;
use super::{ParseError, Problem, opcode};
use crate::ir::{Class, Instruction, Op, Operand, Register};
use crate::types::{Space, Type};

/// Bounds that no real kernel reaches and a hostile text must not pass.
const MOST_REGISTERS: usize = 1 << 16;
const MOST_SCOPES: usize = 1 << 12;

/// What a body parses to.
pub(super) struct Body {
    pub registers: Vec<Type>,
    pub code: Vec<Instruction>,
    pub shared: usize,
    pub local: usize,
}

/// Names declared between one pair of braces.
#[derive(Default)]
struct Scope<'a> {
    registers: BTreeMap<String, Register>,
    variables: BTreeMap<&'a str, Variable>,
    labels: BTreeMap<&'a str, usize>,
    parent: usize,
}

/// A branch to a label that may not have been seen yet.
struct Jump<'a> {
    instruction: usize,
    scope: usize,
    label: Token<'a>,
}

/// Everything declared so far.
pub(super) struct Names<'a> {
    scopes: Vec<Scope<'a>>,
    current: usize,
    pub registers: Vec<Type>,
}

struct Parser<'a, 'c> {
    cursor: &'c mut Cursor<'a>,
    lines: &'c [&'a str],
    names: Names<'a>,
    code: Vec<Instruction>,
    jumps: Vec<Jump<'a>>,
    shared: Layout,
    local: Layout,
}

/// Parses up to and with the closing brace; the opening one is taken already.
pub(super) fn parse<'a>(
    cursor: &mut Cursor<'a>,
    lines: &[&'a str],
    variables: BTreeMap<&'a str, Variable>,
    shared: Layout,
) -> Result<Body, ParseError> {
    let names = Names { scopes: vec![Scope { variables, ..Scope::default() }], current: 0, registers: Vec::new() };
    let local = Layout::default();
    let mut parser = Parser { cursor, lines, names, code: Vec::new(), jumps: Vec::new(), shared, local };
    let end = parser.statements()?;
    parser.finish(end)
}

impl<'a> Names<'a> {
    /// The scopes a name is looked up in, innermost first; scope 0 is its own parent.
    fn visible(&self, from: usize) -> impl Iterator<Item = &Scope<'a>> {
        let outward = std::iter::successors(Some(from), |&at| (at != 0).then(|| self.scopes[at].parent));
        outward.map(|at| &self.scopes[at])
    }

    pub fn register(&self, name: &str) -> Option<Register> {
        self.visible(self.current).find_map(|scope| scope.registers.get(name).copied())
    }

    pub fn variable(&self, name: &str) -> Option<Variable> {
        self.visible(self.current).find_map(|scope| scope.variables.get(name).copied())
    }

    fn declare_register(&mut self, name: String, ty: Type, token: Token<'a>) -> Result<(), ParseError> {
        if self.registers.len() == MOST_REGISTERS {
            return Err(token.problem(Problem::TooLarge));
        }
        let register = self.registers.len() as Register;
        self.registers.push(ty);
        match self.scopes[self.current].registers.insert(name, register) {
            None => Ok(()),
            Some(_) => Err(token.problem(Problem::Duplicate)),
        }
    }

    fn open(&mut self, token: Token<'a>) -> Result<(), ParseError> {
        if self.scopes.len() == MOST_SCOPES {
            return Err(token.problem(Problem::TooLarge));
        }
        self.scopes.push(Scope { parent: self.current, ..Scope::default() });
        self.current = self.scopes.len() - 1;
        Ok(())
    }
}

impl<'a> Parser<'a, '_> {
    /// Returns the closing brace.
    fn statements(&mut self) -> Result<Token<'a>, ParseError> {
        loop {
            let token = self.cursor.peek();
            match token.text {
                "}" if self.names.current == 0 => return Ok(self.cursor.next()),
                "}" => {
                    self.cursor.next();
                    self.names.current = self.names.scopes[self.names.current].parent;
                }
                "{" => {
                    self.cursor.next();
                    self.names.open(token)?;
                }
                "@" => self.instruction()?,
                ".reg" => self.register_declaration()?,
                ".shared" | ".local" => self.variable_declaration()?,
                ".pragma" => self.pragma()?,
                text if text.starts_with('.') => return Err(token.problem(Problem::Directive)),
                _ if token.kind != Kind::Word => return Err(token.problem(Problem::Expected("a statement"))),
                _ => self.label_or_instruction()?,
            }
        }
    }

    fn pragma(&mut self) -> Result<(), ParseError> {
        self.cursor.next();
        let token = self.cursor.next();
        if token.kind != Kind::Text {
            return Err(token.problem(Problem::Expected("a string")));
        }
        self.cursor.expect(";").map(drop)
    }

    /// `.reg .b32 %r<5>, %a;` declares %r0 to %r4 and %a.
    fn register_declaration(&mut self) -> Result<(), ParseError> {
        self.cursor.next();
        let ty = self.cursor.type_name()?;
        loop {
            let name = self.cursor.word("a register")?;
            if self.cursor.accept("<") {
                for i in 0..self.cursor.number_up_to(MOST_REGISTERS as u64)? {
                    self.names.declare_register(format!("{}{i}", name.text), ty, name)?;
                }
                self.cursor.expect(">")?;
            } else {
                self.names.declare_register(name.text.to_owned(), ty, name)?;
            }
            if !self.cursor.accept(",") {
                return self.cursor.expect(";").map(drop);
            }
        }
    }

    fn variable_declaration(&mut self) -> Result<(), ParseError> {
        let keyword = self.cursor.next();
        let declaration = declaration(self.cursor)?;
        self.cursor.expect(";")?;
        let (space, layout) = match keyword.text {
            ".shared" => (Space::Shared, &mut self.shared),
            _ => (Space::Local, &mut self.local),
        };
        let at = Operand::Immediate(layout.place(&declaration) as u64);
        if layout.bytes > 1 << 20 {
            return Err(keyword.problem(Problem::TooLarge));
        }
        let scope = &mut self.names.scopes[self.names.current];
        match scope.variables.insert(declaration.name, Variable { space, at }) {
            None => Ok(()),
            Some(_) => Err(keyword.problem(Problem::Duplicate)),
        }
    }

    fn label_or_instruction(&mut self) -> Result<(), ParseError> {
        let token = self.cursor.next();
        if !self.cursor.accept(":") {
            return self.operation(token, token, None);
        }
        let scope = &mut self.names.scopes[self.names.current];
        match scope.labels.insert(token.text, self.code.len()) {
            None => Ok(()),
            Some(_) => Err(token.problem(Problem::Duplicate)),
        }
    }

    /// `@p opcode ...` or `@!p opcode ...`
    fn instruction(&mut self) -> Result<(), ParseError> {
        let start = self.cursor.next();
        let negated = self.cursor.accept("!");
        let name = self.cursor.word("a predicate")?;
        let register = self.names.register(name.text).ok_or_else(|| name.problem(Problem::Unknown))?;
        if self.names.registers[register as usize] != Type::Pred {
            return Err(name.problem(Problem::Expected("a predicate")));
        }
        let opcode = self.cursor.word("an opcode")?;
        self.operation(start, opcode, Some((register, negated)))
    }

    fn operation(
        &mut self,
        start: Token<'a>,
        opcode: Token<'a>,
        guard: Option<(Register, bool)>,
    ) -> Result<(), ParseError> {
        let (op, class) = if matches!(opcode.text, "bra" | "bra.uni") {
            let label = self.cursor.word("a label")?;
            self.jumps.push(Jump { instruction: self.code.len(), scope: self.names.current, label });
            (Op::Branch { target: 0 }, Class::Control)
        } else {
            let arguments = Arguments::parse(self.cursor, &self.names)?;
            opcode::decode(opcode, &arguments)?
        };
        self.cursor.expect(";")?;
        let text = self.lines.get(start.line - 1).map_or(opcode.text, |line| line.trim()).into();
        let writes = op.writes().into();
        self.code.push(Instruction { op, guard, line: start.line, text, class, writes });
        Ok(())
    }

    /// Resolves branches, appends the implicit exit and sizes shared memory.
    fn finish(mut self, end: Token<'a>) -> Result<Body, ParseError> {
        for jump in &self.jumps {
            let mut scopes = self.names.visible(jump.scope);
            let found = scopes.find_map(|scope| scope.labels.get(jump.label.text).copied());
            let target = found.ok_or_else(|| jump.label.problem(Problem::Unknown))?;
            self.code[jump.instruction].op = Op::Branch { target };
        }
        self.code.push(Instruction {
            op: Op::Exit,
            guard: None,
            line: end.line,
            text: "}".into(),
            class: Class::Control,
            writes: Box::default(),
        });
        let (shared, local) = (self.shared.bytes, self.local.bytes);
        Ok(Body { registers: self.names.registers, code: self.code, shared, local })
    }
}
