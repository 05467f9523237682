//! Calls of tools, as a model says them and as a request demands them. The model that ships in the repository calls nothing by
//! itself, so it is told what to say, or a grammar leaves it no choice.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use llama_core::engine::Request;
use llama_core::sample::Sampling;
use llama_core::text::{self, ChatTemplate, Date, RenderOptions, Specials, Trust};
use llama_serve::{Options, Server};
use serde_json::{Value, json};

use crate::client::{Reply, post};
use crate::subject::{engine, engine_options, hooked, serve_template, server};

/// Tools before the conversation and calls in it, in the manner of Llama 3.1.
pub const TEMPLATE: &str = "\
{{ bos_token }}{% if tools %}Tools:{% for tool in tools %} {{ tool | tojson }}{% endfor %}{{ '\n' }}{% endif %}{% for message in messages %}{% if message.tool_calls %}{% for call in message.tool_calls %}
{{ call.id }} {{ '{\"name\": \"' + call.function.name + '\", \"parameters\": ' }}{{ call.function.arguments | tojson }}}
{% endfor %}{{ message.content | trim }}{% elif message.role == 'tool' %}{{ message.tool_call_id }} {{ message.name }} said {{ message.content | tojson }}
{% else %}{{ message.role }}: {{ message.content }}
{% endif %}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";

/// The same without tools, calls and answers, which would not fit into the model's context.
pub const SHORT: &str = "{{ bos_token }}{% if tools %}{% endif %}{{ messages[0].content }}";

/// Calls in the manner of Mistral, which wants short names for them. `[TOOL_CALLS]` is no token of the model's.
pub const MISTRAL: &str = "\
{{ bos_token }}{% if tools %}{% endif %}{% for message in messages %}{% if message.tool_calls %}[TOOL_CALLS]{% for call in message.tool_calls %}{% if call.id | length != 9 %}{{ raise_exception('nine letters') }}{% endif %}{{ call.function.name }}{% endfor %}{% else %}{{ message.content }}{% endif %}{% endfor %}";

fn weather() -> Value {
    json!({"type": "function", "function": {
        "name": "get_weather",
        "description": "Weather <now>",
        "strict": true,
        "parameters": {
            "$defs": {"unit": {"enum": ["C", "F"]}},
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}, "unit": {"$ref": "#/$defs/unit"}},
            "required": ["city", "unit"],
            "additionalProperties": false,
        },
    }})
}

fn time() -> Value {
    json!({"type": "function", "function": {"name": "get_time"}})
}

/// A request that may call both.
fn body(more: Value) -> Value {
    let messages = json!([{"role": "user", "content": "How is it outside?"}]);
    let mut body = json!({"messages": messages, "tools": [weather(), time()], "temperature": 0, "max_tokens": 200});
    more.as_object().unwrap().iter().for_each(|(key, value)| body[key] = value.clone());
    body
}

fn ask(address: SocketAddr, body: &Value) -> Reply {
    post(address, "/v1/chat/completions", body)
}

/// A model that says what it is told to, token by token.
#[derive(Clone, Default)]
pub struct Script(Arc<Mutex<VecDeque<u32>>>);

impl Script {
    fn server(&self) -> Server {
        self.server_of(SHORT)
    }

    pub fn server_of(&self, template: &str) -> Server {
        let script = self.clone();
        let vocab = engine(engine_options()).model().config().vocab;
        let hook = move |_: &_, logits: &mut Vec<f32>| {
            if let Some(row) = logits.get_mut(..vocab) {
                row.fill(0.0);
                row[script.0.lock().unwrap().pop_front().expect("the script has ended") as usize] = 100.0;
            }
            Ok(())
        };
        serve_template(hooked(engine_options(), Box::new(hook)), template, Options::default())
    }

    /// The choice of an answer in which the model says `text`.
    fn choice(&self, address: SocketAddr, text: &str, more: Value) -> Value {
        let reply = self.reply(address, text, more);
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["choices"][0].clone()
    }

    fn reply(&self, address: SocketAddr, text: &str, more: Value) -> Reply {
        self.tell(text);
        ask(address, &body(more))
    }

    /// What the model says next.
    pub fn tell(&self, text: &str) {
        let engine = engine(engine_options());
        let mut tokens = engine.encode(text, Specials::AsText).unwrap();
        tokens.push(engine.end_tokens()[0]);
        *self.0.lock().unwrap() = tokens.into();
    }

    /// The same, without the space that texts begin with.
    pub fn tell_at_once(&self, text: &str) {
        self.tell(&format!("\n{text}"));
        let mut tokens = self.0.lock().unwrap();
        let tokenizer = engine(engine_options()).tokenizer().unwrap().clone();
        while tokens.pop_front().is_some_and(|token| tokenizer.piece(token).unwrap() != b"\n") {}
    }
}

/// What a message says: its content, and the name and arguments of each call.
#[derive(Debug, Default, PartialEq)]
struct Message {
    content: Option<String>,
    calls: Vec<[String; 2]>,
}

fn expected(content: Option<&str>, calls: &[[&str; 2]]) -> Message {
    Message { content: content.map(String::from), calls: calls.iter().map(|call| call.map(String::from)).collect() }
}

/// A whole message, and why it ended.
fn whole(choice: &Value) -> (Message, &str) {
    let message = &choice["message"];
    let calls = message["tool_calls"].as_array().into_iter().flatten();
    let ids: BTreeSet<&str> = calls.clone().map(|call| call["id"].as_str().unwrap()).collect();
    assert!(ids.len() == calls.clone().count() && ids.iter().all(|id| id.starts_with("call_")), "{message}");
    let calls = calls.map(|call| {
        assert_eq!(call["type"], "function");
        ["name", "arguments"].map(|field| call["function"][field].as_str().unwrap().to_owned())
    });
    let message = Message { content: message["content"].as_str().map(String::from), calls: calls.collect() };
    (message, choice["finish_reason"].as_str().unwrap())
}

/// The message that the deltas of a stream come to, and why it ended.
fn joined(events: &[Value]) -> (Message, String) {
    let (mut message, mut reason) = (Message::default(), String::new());
    for choice in events.iter().map(|event| &event["choices"][0]) {
        assert!(reason.is_empty(), "something after the end: {choice}");
        let delta = &choice["delta"];
        if let Some(text) = delta["content"].as_str() {
            message.content.get_or_insert_default().push_str(text);
        }
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let arguments = call["function"]["arguments"].as_str().unwrap();
            if let Some(name) = call["function"]["name"].as_str() {
                assert!(call["id"].as_str().unwrap().starts_with("call_") && call["type"] == "function", "{call}");
                message.calls.push([name.into(), String::new()]);
            }
            assert_eq!(call["index"], message.calls.len() - 1, "{call}");
            message.calls.last_mut().unwrap()[1].push_str(arguments);
        }
        reason.push_str(choice["finish_reason"].as_str().unwrap_or_default());
    }
    (message, reason)
}

#[test]
fn calls_are_told_from_text() {
    let script = Script::default();
    let server = script.server();
    let paris = r#"{"city": "Paris, \"é\"", "n": [1.50, {}]}"#;
    let weather = format!(r#"{{"name": "get_weather", "parameters": {paris}}}"#);
    let time = r#"{"name": "get_time", "arguments": {}}"#;
    let weather_call = ["get_weather", paris];
    let time_call = ["get_time", "{}"];
    let launch = r#"{"name": "launch", "parameters": {}}"#;
    for (text, content, calls, more) in [
        (weather.clone(), None, &[weather_call][..], json!({})),
        (format!("\n{weather}; {time}\n"), None, &[weather_call, time_call], json!({})),
        (format!("<tool_call>\n{time}\n</tool_call>"), None, &[time_call], json!({"logprobs": true})),
        (format!("{time} I call"), Some(" I call"), &[time_call], json!({"logprobs": true})),
        (format!("{time};{time}"), Some(&*format!(";{time}")), &[time_call], json!({"parallel_tool_calls": false})),
        // The first token of a text begins with a space here, which is no part of a call.
        ("Sunny {".into(), Some(" Sunny {"), &[], json!({"logprobs": true})),
        (launch.into(), Some(&*format!(" {launch}")), &[], json!({})),
        (time[..30].into(), Some(&*format!(" {}", &time[..30])), &[], json!({"logprobs": true})),
        (weather.clone(), Some(&*format!(" {weather}")), &[], json!({"tool_choice": "none"})),
        (weather.clone(), Some(&*format!(" {weather}")), &[], json!({"tools": null})),
    ] {
        let reason = if calls.is_empty() { "stop" } else { "tool_calls" };
        let choice = script.choice(server.address(), &text, more.clone());
        assert_eq!(whole(&choice), (expected(content, calls), reason), "{text}");
        let mut streamed = more;
        streamed["stream"] = true.into();
        let events = script.reply(server.address(), &text, streamed).events();
        assert_eq!(joined(&events), (expected(content, calls), reason.into()), "{text}");
        let scores = |value: &Value| value["logprobs"]["content"].as_array().map_or(0, Vec::len);
        assert_eq!(events.iter().map(|event| scores(&event["choices"][0])).sum::<usize>(), scores(&choice), "{text}");
    }
    assert!(server.stop());
}

#[test]
fn an_answer_that_says_nothing_is_an_empty_text() {
    let script = Script::default();
    let server = script.server();
    assert_eq!(whole(&script.choice(server.address(), "", json!({}))), (expected(Some(""), &[]), "stop"));
    assert!(server.stop());
}

#[test]
fn a_call_that_is_cut_off_is_text() {
    let script = Script::default();
    let server = script.server();
    let time = r#"{"name": "get_time", "arguments": {}}"#;
    let cut = script.choice(server.address(), time, json!({"max_tokens": 12}));
    assert_eq!((&cut["finish_reason"], &cut["message"]["tool_calls"]), (&json!("length"), &Value::Null));
    assert!(time.starts_with(cut["message"]["content"].as_str().unwrap().trim()), "{cut}");
    let stopped = script.choice(server.address(), time, json!({"stop": ["arg"]}));
    assert_eq!(stopped["message"]["content"].as_str().unwrap().trim(), r#"{"name": "get_time", ""#);
    assert_eq!(stopped["finish_reason"], "stop");
    assert!(server.stop());
}

/// The arguments of the one call in an answer.
fn the_call(choice: &Value) -> (String, Value) {
    let (Message { content, calls }, reason) = whole(choice);
    assert_eq!((content, calls.len(), reason), (None, 1, "tool_calls"), "{choice}");
    let [name, arguments] = &calls[0];
    (name.clone(), serde_json::from_str(arguments).unwrap())
}

#[test]
fn a_call_that_is_demanded_comes() {
    let server = serve_template(engine(engine_options()), SHORT, Options::default());
    let named = json!({"type": "function", "function": {"name": "get_weather"}});
    let mut names = BTreeSet::new();
    for seed in 0..12 {
        for choice in [&json!("required"), &named] {
            let body = body(json!({"tool_choice": choice, "seed": seed, "temperature": 1.5, "n": 2}));
            let reply = ask(server.address(), &body).json();
            for (name, arguments) in reply["choices"].as_array().unwrap().iter().map(the_call) {
                assert!(name == "get_weather" || choice != &named, "{name}");
                let fields = arguments.as_object().unwrap();
                match name.as_str() {
                    "get_weather" => {
                        assert!(fields["city"].as_str().unwrap().chars().count() <= 8, "{arguments}");
                        assert!(
                            ["C", "F"].contains(&fields["unit"].as_str().unwrap()) && fields.len() == 2,
                            "{arguments}"
                        );
                    }
                    _ => assert!(fields.is_empty(), "{arguments}"),
                }
                names.insert(name);
            }
        }
    }
    assert_eq!(names.len(), 2, "both were called");
    let mut streamed = body(json!({"tool_choice": "required", "seed": 1}));
    let choice = ask(server.address(), &streamed).json()["choices"][0].clone();
    streamed["stream"] = true.into();
    let (message, reason) = joined(&ask(server.address(), &streamed).events());
    assert_eq!((message, &*reason), whole(&choice));
    assert!(server.stop());
}

/// What a Mistral calls comes back to its template, in either of its forms or in that which is demanded.
#[test]
fn a_mistrals_calls_go_to_and_fro() {
    let script = Script::default();
    let server = script.server_of(MISTRAL);
    let free = serve_template(engine(engine_options()), MISTRAL, Options::default());
    let demanded = ask(free.address(), &body(json!({"tool_choice": "required"}))).json()["choices"][0].clone();
    let list = r#"[{"name": "get_time", "arguments": {}}, {"name": "get_time", "arguments": {}}]"#;
    for (choice, calls) in [
        (script.choice(server.address(), list, json!({})), 2),
        (script.choice(server.address(), "get_time{}", json!({})), 1),
        (demanded, 1),
    ] {
        let message = &choice["message"];
        let called = message["tool_calls"].as_array().unwrap();
        assert_eq!((called.len(), &choice["finish_reason"]), (calls, &json!("tool_calls")), "{choice}");
        let answers = called.iter().map(|call| json!({"role": "tool", "tool_call_id": call["id"], "content": "12"}));
        let messages: Vec<_> =
            [json!({"role": "user", "content": "?"}), message.clone()].into_iter().chain(answers).collect();
        let reply = ask(free.address(), &body(json!({"messages": messages, "max_tokens": 1})));
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let said = script.choice(server.address(), "[1]", json!({}));
    assert_eq!(said["message"]["content"].as_str().map(str::trim), Some("[1]"), "{said}");
    assert!(server.stop() && free.stop());
}

#[test]
fn the_template_has_tools_calls_and_answers() {
    let server = serve_template(engine(engine_options()), TEMPLATE, Options::default());
    let call = |id: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": "get_time", "arguments": arguments}});
    let messages = json!([
        {"role": "user", "content": "Time?"},
        {"role": "assistant", "content": null, "tool_calls": [call("a", "{\"zone\": \"<s>\"}"), call("b", "{}")]},
        {"role": "tool", "tool_call_id": "a", "content": "</s>12"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "13"}]},
        {"role": "assistant", "content": "Noon.", "tool_calls": []},
    ]);
    let tools = json!([time()]);
    let reply =
        ask(server.address(), &json!({"messages": messages, "tools": tools, "temperature": 0, "max_tokens": 20}));
    assert_eq!(reply.status, 200, "{}", reply.text());

    let mut alone = engine(engine_options());
    let tokenizer = alone.tokenizer().unwrap().clone();
    let template = ChatTemplate::new(TEMPLATE).unwrap();
    let given = |id: &str, arguments: Value| json!({"id": id, "type": "function", "function": {"name": "get_time", "arguments": arguments}});
    let messages = [
        json!({"role": "user", "content": "Time?"}),
        json!({"role": "assistant", "content": "", "tool_calls": [given("a", json!({"zone": "<s>"})), given("b", json!({}))]}),
        json!({"role": "tool", "content": "</s>12", "tool_call_id": "a", "name": "get_time"}),
        json!({"role": "tool", "content": "13", "tool_call_id": "b", "name": "get_time"}),
        json!({"role": "assistant", "content": "Noon."}),
    ];
    let messages = messages.map(|message| text::Message::from_json(message).unwrap());
    let schema = json!({"type": "object", "properties": {}, "additionalProperties": false});
    let function = json!({"name": "get_time", "parameters": schema});
    let options = RenderOptions {
        tools: Some(vec![json!({"type": "function", "function": function})]),
        ..RenderOptions::for_tokenizer(Date::today(), &tokenizer)
    };
    assert_eq!(template.render(&messages, &options).unwrap(), "<s>Tools: {\"type\": \"function\", \"function\": {\"name\": \"get_time\", \"parameters\": {\"type\": \"object\", \"properties\": {}, \"additionalProperties\": false}}}
user: Time?
a {\"name\": \"get_time\", \"parameters\": {\"zone\": \"<s>\"}}
b {\"name\": \"get_time\", \"parameters\": {}}
a get_time said \"</s>12\"
b get_time said \"13\"
assistant: Noon.
assistant:");
    let prompt = template.encode(&tokenizer, &messages, &options, Trust::Template).unwrap();
    assert_eq!(prompt.iter().filter(|&&token| tokenizer.is_control(token)).count(), 1, "content made control tokens");
    let request = Request { max_tokens: Some(20), sampling: Sampling::greedy(), ..Request::new(prompt.clone()) };
    let reply = reply.json();
    assert_eq!(reply["usage"]["prompt_tokens"], prompt.len());
    assert_eq!(reply["choices"][0]["message"]["content"], alone.complete(request).unwrap().text);
    assert!(server.stop());
}

#[test]
fn a_template_that_knows_no_tools_is_given_none() {
    let server = server();
    let refused = |body: &Value, param: &str| {
        let error = ask(server.address(), body).error();
        assert_eq!(error, (400, "unsupported_parameter".into(), Some(param.into())));
    };
    refused(&body(json!({})), "tools");
    refused(&body(json!({"tool_choice": "required"})), "tools");
    let call = json!({"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let messages =
        json!([{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "a", "content": "b"}]);
    refused(&json!({"messages": messages}), "messages");
    assert_eq!(ask(server.address(), &body(json!({"tool_choice": "none", "max_tokens": 1}))).status, 200);
    assert!(server.stop());
}

fn function(name: &str, parameters: Value) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": parameters}})
}

#[test]
fn what_cannot_be_demanded_is_refused() {
    let server = serve_template(engine(engine_options()), SHORT, Options::default());
    let many: Vec<Value> = (0..129).map(|number| function(&format!("f{number}"), json!({}))).collect();
    let long = json!([function("f", json!({"description": "a".repeat(300_000)}))]);
    let bad = |schema: Value| json!([time(), function("f", schema)]);
    let named = |name: &str| json!({"type": "function", "function": {"name": name}});
    for (param, more) in [
        ("tools", json!({"tools": many})),
        ("tools", json!({"tools": long})),
        ("tool_choice", json!({"tools": null, "tool_choice": "required"})),
        ("tool_choice", json!({"tool_choice": "sometimes"})),
        ("tool_choice", json!({"tool_choice": {"type": "allowed_tools"}})),
        ("tool_choice.function", json!({"tool_choice": {"type": "function"}})),
        ("tool_choice.function.name", json!({"tool_choice": named("launch")})),
        ("tool_choice.function.name", json!({"tools": null, "tool_choice": named("f")})),
        ("response_format", json!({"tool_choice": "required", "response_format": {"type": "json_object"}})),
        (
            "tools[1].function.parameters",
            json!({"tool_choice": "required", "tools": bad(json!({"$ref": "#/nowhere"}))}),
        ),
        (
            "tools[1].function.parameters",
            json!({"tool_choice": named("f"), "tools": bad(json!({"properties": {"a": {"type": "colour"}}}))}),
        ),
    ] {
        let reply = ask(server.address(), &body(more));
        let (status, _, named) = reply.error();
        assert_eq!((status, named.as_deref()), (400, Some(param)), "{}", reply.text());
        assert!(reply.body.len() < 1000, "{}", reply.text());
    }
    assert!(server.stop());
}

/// They are refused or followed; what counts is that an answer comes, and soon.
#[test]
fn schemas_that_are_bombs_do_no_harm() {
    let server = serve_template(engine(engine_options()), SHORT, Options::default());
    let nested =
        (0..50).fold(json!({"type": "integer"}), |inner, _| json!({"type": "object", "properties": {"a": inner}}));
    let wide: Vec<Value> = (0..4000).map(|number| json!({"const": format!("{number:0>40}")})).collect();
    let looped = json!({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}, "properties": {"a": {"$ref": "#/$defs/a"}}});
    let optional: Value = (0..500).map(|number| (format!("field{number}"), json!({"type": "string"}))).collect();
    let long = json!({"properties": {"a": {"type": "string", "minLength": 1_000_000_000, "maxLength": 2_000_000_000}}, "required": ["a"]});
    let quoted = json!({"properties": {"a\"} \n%json {}": {"const": "\"}\n| \"x\""}}, "required": ["a\"} \n%json {}"]});
    let either =
        |place: usize| (0..4).map(|other| json!({"properties": {format!("a{place}{other}"): {}}})).collect::<Value>();
    let product = json!({"allOf": (0..6).map(|place| json!({"anyOf": either(place)})).collect::<Value>()});
    let bombs = [
        json!([time(), function("f", product)]),
        json!([function("f", nested)]),
        json!([function("f", json!({"properties": {"a": {"anyOf": wide}}}))]),
        json!([function("f", looped)]),
        json!([function("f", json!({"properties": optional}))]),
        json!([function("f", long)]),
        json!([function("f", json!({"properties": {"a": {"pattern": "([ab]*a[ab]{500})"}}, "required": ["a"]}))]),
        json!([function("f", quoted)]),
        (0..128)
            .map(|number| function(&format!("f{number}"), json!({"properties": {"a": {"type": "array"}}})))
            .collect(),
    ];
    let count = bombs.len();
    let mut followed = 0;
    for tools in bombs {
        let start = Instant::now();
        let reply = ask(server.address(), &body(json!({"tools": tools, "tool_choice": "required", "max_tokens": 30})));
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
        match reply.status {
            200 => followed += 1,
            _ => assert!(
                reply.body.len() < 1000 && reply.error().2.is_some_and(|param| param.starts_with("tools")),
                "{}",
                reply.text()
            ),
        }
    }
    assert!(followed > 0 && followed < count, "{followed} of {count}");
    assert_eq!(ask(server.address(), &body(json!({"tool_choice": "required"}))).status, 200);
    assert!(server.stop());
}
