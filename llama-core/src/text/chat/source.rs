//! Two differences between minijinja and what transformers runs, settled in the template's source.
//!
//! With `trim_blocks`, Jinja2 keeps the newline after `{% raw %}` and minijinja drops it: it is doubled here. And
//! transformers knows `{% generation %}` blocks, which mark the assistant's words for training and render as they are: they
//! become `{% if true %}`.

/// `source` as minijinja has to see it to render what Jinja2 renders.
pub(super) fn prepare(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + 16);
    let mut rest = source;
    while let Some(tag) = Tag::next(rest) {
        out.push_str(&rest[..tag.name_start]);
        match tag.name {
            "generation" => out.push_str("if true"),
            "endgeneration" => out.push_str("endif"),
            name => out.push_str(name),
        }
        out.push_str(&rest[tag.name_start + tag.name.len()..tag.end]);
        rest = &rest[tag.end..];
        if tag.name == "raw" {
            if !tag.trims && rest.starts_with('\n') {
                out.push('\n');
            }
            let body = rest.find("endraw").unwrap_or(rest.len());
            out.push_str(&rest[..body]);
            rest = &rest[body..];
        }
    }
    out + rest
}

/// A `{% name ... %}` in the source; positions count from where the search began.
struct Tag<'a> {
    name: &'a str,
    name_start: usize,
    end: usize,
    /// It ends in `-%}`.
    trims: bool,
}

impl<'a> Tag<'a> {
    fn next(source: &'a str) -> Option<Self> {
        let start = source.find("{%")? + 2;
        let end = start + source[start..].find("%}")? + 2;
        let inner = &source[start..end - 2];
        let head = inner.trim_start_matches(['-', '+']).trim_start();
        let name_start = end - 2 - head.len();
        let length = head.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(head.len());
        Some(Tag { name: &head[..length], name_start, end, trims: inner.ends_with('-') })
    }
}

#[cfg(test)]
mod tests {
    use super::prepare;

    #[test]
    fn raw_keeps_its_newline() {
        assert_eq!(prepare("a{% raw %}\nb{% endraw %}\nc"), "a{% raw %}\n\nb{% endraw %}\nc");
        assert_eq!(prepare("{%- raw -%}\nb{% endraw %}"), "{%- raw -%}\nb{% endraw %}");
        assert_eq!(prepare("{% raw %}{% raw %}\n{% endraw %}"), "{% raw %}{% raw %}\n{% endraw %}");
    }

    #[test]
    fn generation_blocks_are_transparent() {
        assert_eq!(prepare("{%- generation -%}x{% endgeneration %}"), "{%- if true -%}x{% endif %}");
        assert_eq!(prepare("{% if generation %}{%"), "{% if generation %}{%");
        assert_eq!(prepare(""), "");
    }
}
