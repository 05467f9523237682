//! Module-level directives and the head of a kernel (PTX ISA 5.4, 7 and 11).

use std::collections::BTreeMap;

use super::cursor::Cursor;
use super::lex::Kind;
use super::{ParseError, Problem, body};
use crate::ir::{Global, Kernel, Module, Op, Operand, Param};
use crate::types::{Space, Type};

/// More shared or parameter memory than this no device has; constant tables stay far below.
const MOST_BYTES: u64 = 1 << 20;

/// A declared name that stands for memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Variable {
    pub space: Space,
    /// Its address within the space.
    pub at: Operand,
}

/// `.align n .type name[count]`, without an initialiser.
#[derive(Debug)]
pub(super) struct Declaration<'a> {
    pub name: &'a str,
    pub align: usize,
    pub ty: Type,
    /// `None` for `name[]`.
    pub count: Option<usize>,
}

impl Declaration<'_> {
    pub fn bytes(&self) -> usize {
        self.ty.bytes() * self.count.unwrap_or(0)
    }
}

/// Lays variables out one after the other.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Layout {
    pub bytes: usize,
}

impl Layout {
    /// The offset of a new variable.
    pub fn place(&mut self, declaration: &Declaration<'_>) -> usize {
        let offset = self.bytes.next_multiple_of(declaration.align);
        self.bytes = offset + declaration.bytes();
        offset
    }
}

struct Parser<'a> {
    cursor: Cursor<'a>,
    lines: Vec<&'a str>,
    variables: BTreeMap<&'a str, Variable>,
    shared: Layout,
    /// What dynamic shared memory, which comes after all other, begins at a multiple of.
    dynamic_align: usize,
    module: Module,
}

pub(super) fn parse(source: &str) -> Result<Module, ParseError> {
    let mut parser = Parser {
        cursor: Cursor::new(source)?,
        lines: source.lines().collect(),
        variables: BTreeMap::new(),
        shared: Layout::default(),
        dynamic_align: 1,
        module: Module { kernels: BTreeMap::new(), globals: Vec::new() },
    };
    while parser.cursor.peek().kind != Kind::End {
        parser.directive()?;
    }
    Ok(parser.module)
}

impl<'a> Parser<'a> {
    fn directive(&mut self) -> Result<(), ParseError> {
        let token = self.cursor.word("a directive")?;
        match token.text {
            ".version" | ".address_size" => self.cursor.number_or_version(),
            ".target" => self.target(),
            ".visible" | ".weak" | ".common" => Ok(()),
            ".extern" => self.dynamic_shared(),
            ".entry" => self.kernel(),
            ".shared" => self.shared_variable(),
            ".global" => self.global_variable(false),
            ".const" => self.global_variable(true),
            _ => Err(token.problem(Problem::Directive)),
        }
    }

    fn target(&mut self) -> Result<(), ParseError> {
        self.cursor.word("a target")?;
        while self.cursor.accept(",") {
            self.cursor.word("a target")?;
        }
        Ok(())
    }

    fn declare(&mut self, name: &'a str, space: Space, at: Operand) -> Result<(), ParseError> {
        match self.variables.insert(name, Variable { space, at }) {
            None => Ok(()),
            Some(_) => Err(self.cursor.peek().problem(Problem::Duplicate)),
        }
    }

    fn dynamic_shared(&mut self) -> Result<(), ParseError> {
        self.cursor.expect(".shared")?;
        let declaration = declaration(&mut self.cursor)?;
        if declaration.count.is_some() {
            return Err(self.cursor.peek().problem(Problem::Expected("an array without a size")));
        }
        self.cursor.expect(";")?;
        self.dynamic_align = self.dynamic_align.max(declaration.align);
        self.declare(declaration.name, Space::Shared, Operand::DynamicShared)
    }

    fn shared_variable(&mut self) -> Result<(), ParseError> {
        let declaration = declaration(&mut self.cursor)?;
        self.cursor.expect(";")?;
        let at = Operand::Immediate(self.shared.place(&declaration) as u64);
        self.declare(declaration.name, Space::Shared, at)
    }

    fn global_variable(&mut self, constant: bool) -> Result<(), ParseError> {
        let declaration = declaration(&mut self.cursor)?;
        let mut data = vec![0; declaration.bytes()];
        if self.cursor.accept("=") {
            self.initialiser(declaration.ty, &mut data)?;
        }
        self.cursor.expect(";")?;
        let at = Operand::Global(self.module.globals.len() as u32);
        self.module.globals.push(Global { data, constant });
        self.declare(declaration.name, if constant { Space::Const } else { Space::Global }, at)
    }

    fn initialiser(&mut self, ty: Type, data: &mut [u8]) -> Result<(), ParseError> {
        let list = self.cursor.accept("{");
        for element in data.chunks_exact_mut(ty.bytes()) {
            element.copy_from_slice(&self.cursor.signed_number()?.to_le_bytes()[..ty.bytes()]);
            if !list || !self.cursor.accept(",") {
                break;
            }
        }
        if list { self.cursor.expect("}").map(drop) } else { Ok(()) }
    }

    fn kernel(&mut self) -> Result<(), ParseError> {
        let name = self.cursor.word("a kernel's name")?;
        let mut variables = self.variables.clone();
        let (params, param_bytes) = parameters(&mut self.cursor, &mut variables)?;
        let max_threads = performance_directives(&mut self.cursor)?;
        self.cursor.expect("{")?;
        let body = body::parse(&mut self.cursor, &self.lines, variables, self.shared)?;
        let wgmma = body.code.iter().any(|instruction| matches!(instruction.op, Op::Wgmma(_)));
        let kernel = Kernel {
            name: name.text.to_owned(),
            params,
            param_bytes,
            registers: body.registers,
            code: body.code,
            shared: body.shared.next_multiple_of(self.dynamic_align),
            local: body.local,
            max_threads,
            wgmma,
        };
        match self.module.kernels.insert(name.text.to_owned(), kernel) {
            None => Ok(()),
            Some(_) => Err(name.problem(Problem::Duplicate)),
        }
    }
}

impl Cursor<'_> {
    fn number_or_version(&mut self) -> Result<(), ParseError> {
        let token = self.next();
        if token.kind == Kind::Number { Ok(()) } else { Err(token.problem(Problem::Expected("a number"))) }
    }
}

/// `[.align n] .type name [ '[' count ']' ]`, as in variable and parameter declarations.
pub(super) fn declaration<'a>(cursor: &mut Cursor<'a>) -> Result<Declaration<'a>, ParseError> {
    let mut align = alignment(cursor)?;
    let ty = cursor.type_name()?;
    // Parameters may say what they point to: `.u64 .ptr .global .align 16 name`.
    while [".ptr", ".global", ".shared", ".const", ".local"].iter().any(|word| cursor.accept(word)) {}
    alignment(cursor)?;
    align = align.max(ty.bytes());
    let name = cursor.word("a name")?.text;
    let count = if cursor.accept("[") { array_size(cursor, ty)? } else { Some(1) };
    Ok(Declaration { name, align, ty, count })
}

fn alignment(cursor: &mut Cursor<'_>) -> Result<usize, ParseError> {
    if !cursor.accept(".align") {
        return Ok(1);
    }
    let token = cursor.peek();
    match cursor.number_up_to(4096)? {
        align if align.is_power_of_two() => Ok(align),
        _ => Err(token.problem(Problem::BadNumber)),
    }
}

fn array_size(cursor: &mut Cursor<'_>, ty: Type) -> Result<Option<usize>, ParseError> {
    if cursor.accept("]") {
        return Ok(None);
    }
    let count = cursor.number_up_to(MOST_BYTES / ty.bytes() as u64)?;
    cursor.expect("]")?;
    Ok(Some(count))
}

fn parameters<'a>(
    cursor: &mut Cursor<'a>,
    variables: &mut BTreeMap<&'a str, Variable>,
) -> Result<(Vec<Param>, usize), ParseError> {
    let (mut params, mut layout) = (Vec::new(), Layout::default());
    if !cursor.accept("(") {
        return Ok((params, 0));
    }
    while !cursor.accept(")") {
        cursor.expect(".param")?;
        let declaration = declaration(cursor)?;
        let offset = layout.place(&declaration);
        if layout.bytes > 32_764 {
            return Err(cursor.peek().problem(Problem::TooLarge));
        }
        let at = Operand::Immediate(offset as u64);
        variables.insert(declaration.name, Variable { space: Space::Param, at });
        params.push(Param { offset, bytes: declaration.bytes() });
        if !cursor.accept(",") && cursor.peek().text != ")" {
            return Err(cursor.peek().problem(Problem::Expected("`,` or `)`")));
        }
    }
    Ok((params, layout.bytes))
}

/// `.maxntid` and its kin; only the limit on threads matters here (PTX ISA 11.4).
fn performance_directives(cursor: &mut Cursor<'_>) -> Result<u32, ParseError> {
    let mut max_threads = 1024;
    loop {
        if cursor.accept(".maxntid") || cursor.accept(".reqntid") {
            max_threads = extent(cursor)?;
        } else if cursor.accept(".minnctapersm") || cursor.accept(".maxnreg") {
            cursor.number()?;
        } else {
            return Ok(max_threads);
        }
    }
}

fn extent(cursor: &mut Cursor<'_>) -> Result<u32, ParseError> {
    let mut threads = cursor.number_up_to(1024)?;
    while cursor.accept(",") {
        threads = threads.saturating_mul(cursor.number_up_to(1024)?);
    }
    Ok(threads.min(1024) as u32)
}
