//! `tools`, `tool_choice` and `parallel_tool_calls`: the functions that a model may call, and whether it must.
//!
//! The chat template tells the model of them, in the form that it was taught, and `calls.rs` finds calls in what it says. Where
//! a call is demanded, a grammar leaves it nothing else to say: the name of a function and arguments that are valid by its
//! schema. Each schema is a document of its own in that grammar, so that a `$ref` in it means what it says.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use llama_core::Error;
use llama_core::engine::Grammar;
use llama_structured::{Grammars, on_one_line};
use serde_json::{Value, json};

use crate::calls::{Parser, Spelling};
use crate::error::{ApiError, Result};
use crate::fields::{Fields, Layout, shown};
use crate::format::{grammars, within};
use crate::served::Served;
use crate::thoughts::Thoughts;

/// Most functions: as many as OpenAI's API takes.
const MAX_TOOLS: usize = 128;
/// Most bytes of all of them as JSON. A prompt has no room for more, and compiling their schemas takes time.
const MAX_BYTES: usize = 256 << 10;
/// Time to find which schema it is that cannot be kept to. Some take seconds to compile.
const SEARCH_TIME: Duration = Duration::from_secs(1);
/// Longest name of a function: OpenAI's API takes no more.
const MAX_NAME: usize = 64;

/// Functions that may be called.
pub struct Tools {
    functions: Vec<Function>,
    /// Those of which one must be called.
    demanded: Option<Range<usize>>,
    /// Calls in one text.
    most: usize,
}

/// A function as the request describes it.
pub struct Function {
    /// Where the request has its name and its schema.
    name_at: String,
    parameters_at: String,
    /// Letters, digits, `_` and `-`: it stands in a grammar as it is.
    name: String,
    description: Option<String>,
    parameters: Value,
}

/// What is to be done with the functions.
pub enum Choice {
    /// Nothing.
    Hide,
    /// Calls are up to the model.
    Offer,
    /// One of these must be called.
    Demand(Range<usize>),
}

impl Tools {
    /// Takes them out of `fields`; `None` where there are none, or the model is not to know of them.
    ///
    /// # Errors
    /// A 400 that names the field.
    pub fn take(fields: &mut Fields, layout: Layout) -> Result<Option<Self>> {
        let functions = functions(fields, |tool| function(tool, layout))?;
        let choice = choice(fields, layout, &functions)?;
        let parallel = fields.switch("parallel_tool_calls")?.unwrap_or(true);
        Ok(Tools::new(functions, choice, parallel))
    }

    /// Those of `functions` that the model is to know of by `choice`, if any; one text may call several if that is `parallel`.
    pub fn new(functions: Vec<Function>, choice: Choice, parallel: bool) -> Option<Self> {
        let most = if parallel { usize::MAX } else { 1 };
        match choice {
            _ if functions.is_empty() => None,
            Choice::Hide => None,
            Choice::Offer => Some(Tools { functions, demanded: None, most }),
            Choice::Demand(demanded) => Some(Tools { functions, demanded: Some(demanded), most }),
        }
    }

    /// As templates expect them. `strict` is nothing that a model was taught.
    pub fn json(&self) -> Vec<Value> {
        self.functions.iter().map(Function::json).collect()
    }

    /// What reads what the model says: `thoughts`, words, and calls of `tools` where there are any.
    pub fn parser(tools: Option<&Self>, served: &Served, thoughts: Thoughts) -> Parser {
        let parser = match tools {
            None => Parser::of_words(),
            Some(Tools { functions, most, .. }) => {
                let names = functions.iter().map(|function| function.name.clone()).collect::<BTreeSet<_>>();
                Parser::new(Arc::new(names), *most, Spelling::of(served.template.as_ref()))
            }
        };
        parser.after(thoughts)
    }

    /// Texts that are one call, where one is demanded.
    ///
    /// # Errors
    /// A 400 that names the schema that cannot be kept to.
    pub fn grammar(&self, served: &Served) -> Result<Option<Arc<dyn Grammar>>> {
        let Some(demanded) = &self.demanded else { return Ok(None) };
        let grammars = &grammars(served, "tool_choice")?.named("tools");
        let grammar = grammars.lark(&lark(&self.functions[demanded.clone()]));
        grammar.map(Some).map_err(|error| match self.culprit(grammars, demanded.clone()) {
            Some((number, error)) => ApiError::value(&self.functions[number].parameters_at, error.to_string()),
            None => ApiError::value("tools", error.to_string()),
        })
    }

    /// The first function whose schema cannot be kept to by itself, and why, if that is found in time.
    fn culprit(&self, grammars: &Grammars, among: Range<usize>) -> Option<(usize, Error)> {
        let start = Instant::now();
        let mut among = among.take_while(|_| start.elapsed() < SEARCH_TIME);
        among.find_map(|number| Some((number, grammars.json_schema(&self.functions[number].schema()).err()?)))
    }
}

impl Choice {
    /// One of those at `demanded` must be called.
    ///
    /// # Errors
    /// A 400 where there are none.
    pub fn demand(demanded: Range<usize>) -> Result<Self> {
        match demanded.is_empty() {
            true => Err(ApiError::value("tool_choice", "tool_choice demands a call, and there are no tools")),
            false => Ok(Choice::Demand(demanded)),
        }
    }

    /// The one of `functions` that `fields` name, and nothing else, must be called.
    ///
    /// # Errors
    /// A 400 about the name.
    pub fn named(mut fields: Fields, functions: &[Function]) -> Result<Self> {
        let name = fields.string("name")?.ok_or_else(|| fields.missing("name"))?;
        let path = fields.path("name");
        fields.end()?;
        match functions.iter().position(|function| function.name == name) {
            Some(number) => Ok(Choice::Demand(number..number + 1)),
            None => {
                let name = shown(&name.into());
                Err(ApiError::value(&path, format!("{path} is {name}, which is not among tools")))
            }
        }
    }
}

impl Function {
    /// What `fields` describe, and nothing else: a name of `longest` bytes at most, and in the field `schema` that of its arguments.
    ///
    /// # Errors
    /// A 400 that names the field.
    pub fn take(mut fields: Fields, schema: &str, longest: usize) -> Result<Self> {
        let (name_at, parameters_at) = (fields.path("name"), fields.path(schema));
        let name = fields.string("name")?.ok_or_else(|| fields.missing("name"))?;
        if name.is_empty() || name.len() > longest || !name.chars().all(may_name) {
            let name = shown(&name.into());
            let problem = format!("{name_at} is {name}; it must be 1 to {longest} letters, digits, _ and -");
            return Err(ApiError::value(&name_at, problem));
        }
        let description = fields.string("description")?;
        let parameters = parameters(&mut fields, schema)?;
        // The schema of a call that is demanded is kept to either way.
        fields.flag("strict")?;
        fields.end()?;
        Ok(Function { name_at, parameters_at, name, description, parameters })
    }

    fn json(&self) -> Value {
        let mut function = json!({"name": self.name});
        if let Some(description) = &self.description {
            function["description"] = description.as_str().into();
        }
        function["parameters"] = self.parameters.clone();
        json!({"type": "function", "function": function})
    }

    /// The schema of its arguments, which are an object even where the request does not say so.
    fn schema(&self) -> Value {
        let mut schema = on_one_line(&self.parameters);
        if let Some(keys) = schema.as_object_mut() {
            keys.entry("type").or_insert("object".into());
        }
        schema
    }
}

/// A grammar of one call, in the form of Llama 3.1; the model may have been taught either name of the arguments.
fn lark(functions: &[Function]) -> String {
    let rule = |function: &Function| {
        let (name, schema) = (&function.name, function.schema());
        format!(r#""{{\"name\": \"{name}\", " ("\"parameters\": " | "\"arguments\": ") %json {schema} "}}""#)
    };
    format!("start: {}\n", functions.iter().map(rule).collect::<Vec<_>>().join("\n    | "))
}

/// Takes the functions out of `tools`, each as `read` has it.
///
/// # Errors
/// A 400 that names the field: of too many, of two with one name, and `read`'s.
pub fn functions(fields: &mut Fields, read: impl Fn(Fields) -> Result<Function>) -> Result<Vec<Function>> {
    let tools = fields.list("tools")?;
    within("tools", "entries", tools.len(), MAX_TOOLS)?;
    within("tools", "bytes", tools.iter().map(|(_, tool)| tool.to_string().len()).sum(), MAX_BYTES)?;
    let mut names = BTreeSet::new();
    let functions = tools.into_iter().map(|(place, tool)| {
        let function = read(Fields::at(&place, tool)?)?;
        match names.insert(function.name.clone()) {
            true => Ok(function),
            false => {
                let problem = format!("{place} has the name of another function, {}", function.name);
                Err(ApiError::value(&function.name_at, problem))
            }
        }
    });
    functions.collect()
}

fn function(mut fields: Fields, layout: Layout) -> Result<Function> {
    if fields.string("type")?.as_deref() != Some("function") {
        let path = fields.path("type");
        return Err(ApiError::lacking(&path, format!("{path} must be function: this server has no other tools")));
    }
    Function::take(layout.open(fields, "function")?, "parameters", MAX_NAME)
}

fn may_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// A schema of objects: nothing else can be arguments. A function without one takes none.
fn parameters(function: &mut Fields, name: &str) -> Result<Value> {
    let of_objects = |schema: &Value| {
        let keys = schema.as_object()?;
        keys.get("type").is_none_or(|kind| kind == "object").then(|| schema.clone())
    };
    let given = function.checked(name, "a schema of type object", of_objects)?;
    Ok(given.unwrap_or_else(|| json!({"type": "object", "properties": {}, "additionalProperties": false})))
}

fn choice(fields: &mut Fields, layout: Layout, functions: &[Function]) -> Result<Choice> {
    match fields.take("tool_choice") {
        None => Ok(Choice::Offer),
        Some(Value::String(word)) if word == "none" => Ok(Choice::Hide),
        Some(Value::String(word)) if word == "auto" => Ok(Choice::Offer),
        Some(Value::String(word)) if word == "required" => Choice::demand(0..functions.len()),
        Some(named @ Value::Object(_)) => {
            let mut named = Fields::at("tool_choice", named)?;
            if named.string("type")?.as_deref() != Some("function") {
                return Err(unknown_choice());
            }
            Choice::named(layout.open(named, "function")?, functions)
        }
        Some(_) => Err(unknown_choice()),
    }
}

fn unknown_choice() -> ApiError {
    ApiError::value(
        "tool_choice",
        "tool_choice must be none, auto, required or a function, as an object of type function",
    )
}
