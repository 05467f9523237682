//! The methods of Python's strings, lists and dicts that templates call.
//!
//! The engine charges fuel for what a method returns; methods whose result can be longer than what they are given check
//! its length before they make it.

use minijinja::value::{ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use super::check_length;

/// Calls `value.method(args)`.
pub(super) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            state.consume_fuel(1 + text.len() as u64 / 64)?;
            let found = string_test(text, method, args).or_else(|| string_search(text, method, args).transpose());
            found.unwrap_or_else(|| string_method(text, method, args))
        }
        ValueKind::Map => map_method(value, method, args),
        ValueKind::Seq => seq_method(value, method, args),
        _ => Err(unknown()),
    }
}

/// The filter `trim`: Python's `str(value).strip(chars)`.
pub(super) fn trim(value: &Value, chars: Option<&str>) -> Value {
    match value.as_str() {
        Some(text) => Value::from(strip(text, chars, true, true)),
        None => Value::from(strip(&value.to_string(), chars, true, true)),
    }
}

fn unknown() -> Error {
    Error::from(ErrorKind::UnknownMethod)
}

/// `isdigit` and its kin: true for a string of at least one character, all of a class.
fn string_test(s: &str, method: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    let all = |class: fn(char) -> bool| !s.is_empty() && s.chars().all(class);
    let answer = match method {
        "isspace" => all(is_space),
        "isdigit" | "isnumeric" | "isdecimal" => all(char::is_numeric),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isascii" => s.is_ascii(),
        "islower" => s.chars().any(char::is_lowercase) && !s.chars().any(char::is_uppercase),
        "isupper" => s.chars().any(char::is_uppercase) && !s.chars().any(char::is_lowercase),
        _ => return None,
    };
    Some(from_args::<()>(args).map(|()| Value::from(answer)))
}

/// Methods that look for a string inside another. Positions count characters, as in Python.
fn string_search(s: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let position = |at: Option<usize>| at.map_or(-1, |i| s[..i].chars().count() as i64);
    let needle = || from_args::<(&str,)>(args).map(|(needle,)| needle);
    Ok(Some(match method {
        "find" => Value::from(position(s.find(needle()?))),
        "rfind" => Value::from(position(s.rfind(needle()?))),
        "count" => Value::from(s.matches(needle()?).count()),
        "startswith" => Value::from(any_of(args, |prefix| s.starts_with(prefix))?),
        "endswith" => Value::from(any_of(args, |suffix| s.ends_with(suffix))?),
        "removeprefix" => Value::from(needle().map(|n| s.strip_prefix(n).unwrap_or(s))?),
        "removesuffix" => Value::from(needle().map(|n| s.strip_suffix(n).unwrap_or(s))?),
        _ => return Ok(None),
    }))
}

/// The argument of `startswith` is a string or a tuple of strings.
fn any_of(args: &[Value], test: impl Fn(&str) -> bool) -> Result<bool, Error> {
    let (what,): (&Value,) = from_args(args)?;
    if let Some(text) = what.as_str() {
        return Ok(test(text));
    }
    for item in what.try_iter()? {
        if test(item.as_str().ok_or_else(|| invalid("expected a string or strings"))?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Methods that make strings.
fn string_method(s: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let optional = || from_args::<(Option<&str>,)>(args).map(|(chars,)| chars);
    let none = || from_args::<()>(args);
    Ok(match method {
        "strip" => Value::from(strip(s, optional()?, true, true)),
        "lstrip" => Value::from(strip(s, optional()?, true, false)),
        "rstrip" => Value::from(strip(s, optional()?, false, true)),
        "upper" => none().map(|()| Value::from(s.to_uppercase()))?,
        "lower" => none().map(|()| Value::from(s.to_lowercase()))?,
        "capitalize" => none().map(|()| Value::from(capitalize(s)))?,
        "title" => none().map(|()| Value::from(title(s)))?,
        "replace" => replace(s, args)?,
        "split" => split(s, args, false)?,
        "rsplit" => split(s, args, true)?,
        "splitlines" => splitlines(s, args)?,
        "join" => join(s, args)?,
        _ => return Err(unknown()),
    })
}

/// What Python calls white space: Unicode's, and the four ASCII separators.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

fn strip<'a>(mut s: &'a str, chars: Option<&str>, left: bool, right: bool) -> &'a str {
    let goes = |c: char| chars.map_or(is_space(c), |chars| chars.contains(c));
    if left {
        s = s.trim_start_matches(goes);
    }
    if right {
        s = s.trim_end_matches(goes);
    }
    s
}

fn capitalize(s: &str) -> String {
    let mut chars = s.chars();
    chars.next().into_iter().flat_map(char::to_uppercase).chain(chars.flat_map(char::to_lowercase)).collect()
}

/// Upper case after every character that is no letter, lower case after every letter.
fn title(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    let mut inside = false;
    for c in s.chars() {
        match inside {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
        inside = c.is_alphabetic();
    }
    out
}

fn replace(s: &str, args: &[Value]) -> Result<Value, Error> {
    let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
    let count = count.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let times = s.matches(old).count().min(count);
    check_length(times.saturating_mul(new.len()).saturating_add(s.len()))?;
    Ok(Value::from(s.replacen(old, new, times)))
}

/// `split` and `rsplit`: at a separator, or at runs of white space; at most `maxsplit` times.
fn split(s: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
    let most = most.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let parts = most.saturating_add(1);
    let mut out: Vec<&str> = match (separator, from_right) {
        (Some(""), _) => return Err(invalid("empty separator")),
        (Some(separator), false) => s.splitn(parts, separator).collect(),
        (Some(separator), true) => s.rsplitn(parts, separator).collect(),
        (None, _) => split_space(s, most, from_right),
    };
    if from_right {
        out.reverse();
    }
    Ok(out.into_iter().map(Value::from).collect())
}

fn split_space(s: &str, most: usize, from_right: bool) -> Vec<&str> {
    let mut out = Vec::new();
    let mut rest = strip(s, None, true, true);
    while !rest.is_empty() {
        let cut = if from_right { rest.rfind(is_space) } else { rest.find(is_space) }.filter(|_| out.len() < most);
        let Some(cut) = cut else {
            out.push(rest);
            break;
        };
        let width = rest[cut..].chars().next().map_or(0, char::len_utf8);
        let (left, right) = (&rest[..cut], &rest[cut + width..]);
        out.push(if from_right { right } else { left });
        rest = if from_right { strip(left, None, false, true) } else { strip(right, None, true, false) };
    }
    out
}

fn splitlines(s: &str, args: &[Value]) -> Result<Value, Error> {
    let (keep,): (Option<bool>,) = from_args(args)?;
    let (mut out, mut rest) = (Vec::new(), s);
    while !rest.is_empty() {
        let end = rest.find(is_line_end).unwrap_or(rest.len());
        let width = match &rest[end..] {
            tail if tail.starts_with("\r\n") => 2,
            tail => tail.chars().next().map_or(0, char::len_utf8),
        };
        out.push(Value::from(&rest[..if keep == Some(true) { end + width } else { end }]));
        rest = &rest[end + width..];
    }
    Ok(Value::from(out))
}

fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn join(separator: &str, args: &[Value]) -> Result<Value, Error> {
    let (values,): (&Value,) = from_args(args)?;
    let mut out = String::new();
    for (i, value) in values.try_iter()?.enumerate() {
        let text = value.as_str().ok_or_else(|| invalid("only strings can be joined"))?;
        check_length(out.len() + separator.len() + text.len())?;
        if i > 0 {
            out.push_str(separator);
        }
        out.push_str(text);
    }
    Ok(Value::from(out))
}

fn map_method(value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let get = |key: &Value| value.get_item(key);
    match method {
        "get" => {
            let (key, default): (&Value, Option<Value>) = from_args(args)?;
            let found = get(key)?;
            Ok(if found.is_undefined() { default.unwrap_or(Value::from(())) } else { found })
        }
        "keys" => from_args(args).and_then(|()| Ok(value.try_iter()?.collect())),
        "values" => from_args(args)
            .and_then(|()| value.try_iter()?.map(|k| get(&k)).collect::<Result<Vec<_>, _>>().map(Value::from)),
        "items" => {
            let () = from_args(args)?;
            let pair = |key: Value| get(&key).map(|v| Value::from(vec![key, v]));
            value.try_iter()?.map(pair).collect::<Result<Vec<_>, _>>().map(Value::from)
        }
        _ => Err(unknown()),
    }
}

fn seq_method(value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let item = || from_args::<(&Value,)>(args).map(|(item,)| item);
    match method {
        "count" => {
            let wanted = item()?;
            Ok(Value::from(value.try_iter()?.filter(|v| v == wanted).count()))
        }
        "index" => {
            let wanted = item()?;
            let at = value.try_iter()?.position(|v| v == *wanted);
            at.map(Value::from).ok_or_else(|| invalid("the item is not in the list"))
        }
        _ => Err(unknown()),
    }
}

fn invalid(problem: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem)
}
