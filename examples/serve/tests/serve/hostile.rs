//! Whatever a request says, the answer is an error object with a status of 4xx that names what is wrong, never a 5xx, and the
//! server answers the next.

use std::net::SocketAddr;
use std::time::Duration;

use llama_serve::{Bounds, Options};
use serde_json::{Value, json};

use crate::client::{Client, post, request};
use crate::subject::{engine, engine_options, serve, serve_with, server};

/// JSON as text, since some of it no `Value` can hold.
type Case = (&'static str, &'static str, &'static str);

/// Fields of a completion, and the values that no server should take.
const PARAMETERS: [Case; 36] = [
    ("temperature", "temperature", "-0.1 2.1 1e39 1e308 \"1\" true [] {} -1e-9"),
    ("top_p", "top_p", "-0.1 1.1 1e39 \"1\" [1]"),
    ("min_p", "min_p", "-0.1 1.0001 1e39 {}"),
    ("top_k", "top_k", "-2 1.5 1e3 9223372036854775808 18446744073709551616 \"1\""),
    ("presence_penalty", "presence_penalty", "-2.1 2.1 1e39 \"\""),
    ("frequency_penalty", "frequency_penalty", "-2.1 2.1 -1e39 []"),
    ("repetition_penalty", "repetition_penalty", "0 -1 1e39 1e-39 false"),
    ("typical_p", "typical_p", "-0.1 1.1 1e39 \"1\" []"),
    ("xtc_probability", "xtc_probability", "-0.1 1.1 1e39 true"),
    ("xtc_threshold", "xtc_threshold", "-0.1 1.1 -1e39 {}"),
    ("dry_multiplier", "dry_multiplier", "-0.1 100.5 1e39 \"1\""),
    ("dry_base", "dry_base", "0 0.99 -2 100.5 1e39 []"),
    ("dry_allowed_length", "dry_allowed_length", "-1 1.5 4294967296 18446744073709551616 \"2\""),
    ("dry_penalty_last_n", "dry_penalty_last_n", "-2 1.5 9223372036854775808 \"-1\" []"),
    (
        "dry_sequence_breakers",
        "dry_sequence_breakers",
        "\"a\" {} [1] [null] [[\"a\"]] [\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\"]",
    ),
    ("max_tokens", "max_tokens", "0 -1 1.5 18446744073709551616 -9223372036854775808 \"5\" [5]"),
    ("min_tokens", "min_tokens", "-1 1.5 5 18446744073709551615 18446744073709551616 \"1\" [1]"),
    ("n", "n", "0 -1 9 1000000 2147483648 1.0 \"2\""),
    ("best_of", "best_of", "0 -1 2 1000000 2147483648 \"1\""),
    ("seed", "seed", "1.5 18446744073709551616 -9223372036854775809 \"7\" []"),
    ("logprobs", "logprobs", "-1 21 1000000 2147483648 true \"5\""),
    ("stop", "stop", "\"\" [\"\"] 1 [1] [null] {} [[\"a\"]]"),
    ("stop_token_ids", "stop_token_ids", "[512] [-1] [4294967295] [4294967296] [2147483648] 1 [\"1\"]"),
    (
        "logit_bias",
        "logit_bias",
        "{\"512\":1} {\"-1\":1} {\"x\":1} {\"1\":101} {\"1\":-101} {\"1\":\"1\"} {\"1\":1e39} {\"4294967296\":0} [] 1",
    ),
    ("bad_words", "bad_words", "\"a\" {} [1] [null] [[\"a\"]] [\"\"] [\"a\",\"\"] 1"),
    ("allowed_token_ids", "allowed_token_ids", "[] [512] [1,-1] [4294967296] [\"1\"] 1 \"a\" {}"),
    ("include_stop_str_in_output", "include_stop_str_in_output", "1 \"true\" []"),
    ("stream", "stream", "1 \"true\" [] 0"),
    ("stream_options", "stream_options", "{} 1 {\"include_usage\":true}"),
    ("echo", "echo", "1 \"true\""),
    ("ignore_eos", "ignore_eos", "1 \"yes\""),
    ("suffix", "suffix", "\"a\" 1"),
    (
        "prompt",
        "prompt",
        "null 1 true {} [] [\"a\",1] [1,\"a\"] [1.5] [-1] [512] [4294967296] [[]] [[1],[]] [[[1]]] [null] [{}]",
    ),
    ("model", "model", "\"other\" \"\" 1 [] \"../../etc/passwd\""),
    ("tools", "tools", "[] [1]"),
    ("no_such_parameter", "no_such_parameter", "0 true \"\" []"),
];

/// The same for chats.
const CHATS: [Case; 43] = [
    ("continue_final_message", "continue_final_message", "true 1 \"yes\" []"),
    ("add_generation_prompt", "add_generation_prompt", "1 \"no\" []"),
    (
        "chat_template_kwargs",
        "chat_template_kwargs",
        "1 [] \"a\" {\"messages\":[]} {\"strftime_now\":1} {\"namespace\":1}",
    ),
    ("messages", "messages", "null 1 \"hi\" {} []"),
    ("messages", "messages[0]", "[1] [null] [[]] [\"hi\"]"),
    (
        "messages",
        "messages[0].role",
        "[{}] [{\"role\":1,\"content\":\"a\"}] [{\"role\":\"root\",\"content\":\"a\"}] [{\"role\":\"function\",\"content\":\"a\"}]",
    ),
    (
        "messages",
        "messages[0].content",
        "[{\"role\":\"user\"}] [{\"role\":\"user\",\"content\":1}] [{\"role\":\"user\",\"content\":{}}] [{\"role\":\"user\",\"content\":[1]}] [{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}] [{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}] [{\"role\":\"assistant\",\"content\":null}]",
    ),
    (
        "messages",
        "messages[0].tool_calls",
        "[{\"role\":\"user\",\"content\":\"a\",\"tool_calls\":[]}] [{\"role\":\"assistant\",\"content\":\"a\",\"tool_calls\":{}}]",
    ),
    (
        "messages",
        "messages[0].tool_calls[0]",
        "[{\"role\":\"assistant\",\"content\":\"a\",\"tool_calls\":[1]}] [{\"role\":\"assistant\",\"tool_calls\":[null]}]",
    ),
    (
        "messages",
        "messages[0].tool_calls[0].id",
        "[{\"role\":\"assistant\",\"tool_calls\":[{}]}] [{\"role\":\"assistant\",\"tool_calls\":[{\"id\":1}]}]",
    ),
    (
        "messages",
        "messages[0].tool_calls[0].type",
        "[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"a\",\"type\":\"custom\"}]}]",
    ),
    (
        "messages",
        "messages[0].tool_calls[0].function",
        "[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"a\",\"type\":\"function\"}]}]",
    ),
    (
        "messages",
        "messages[0].tool_calls[0].function.arguments",
        "[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"f\"}}]}] [{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":{}}}]}] [{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"[1]\"}}]}] [{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{\"}}]}]",
    ),
    (
        "messages",
        "messages[0].tool_call_id",
        "[{\"role\":\"tool\",\"content\":\"a\"}] [{\"role\":\"tool\",\"content\":\"a\",\"tool_call_id\":\"b\"}] [{\"role\":\"user\",\"content\":\"a\",\"tool_call_id\":\"b\"}]",
    ),
    ("messages", "messages[0].secret", "[{\"role\":\"user\",\"content\":\"a\",\"secret\":1}]"),
    ("tools", "tools", "1 {} \"f\" [{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]"),
    ("tools", "tools[0]", "[1] [null] [[]]"),
    ("tools", "tools[0].type", "[{}] [{\"type\":\"custom\"}] [{\"type\":1}]"),
    ("tools", "tools[0].function", "[{\"type\":\"function\"}] [{\"type\":\"function\",\"function\":\"f\"}]"),
    (
        "tools",
        "tools[0].function.name",
        "[{\"type\":\"function\",\"function\":{}}] [{\"type\":\"function\",\"function\":{\"name\":\"\"}}] [{\"type\":\"function\",\"function\":{\"name\":\"a\\\"b\"}}] [{\"type\":\"function\",\"function\":{\"name\":\"\u{e9}\"}}] [{\"type\":\"function\",\"function\":{\"name\":1}}]",
    ),
    (
        "tools",
        "tools[1].function.name",
        "[{\"type\":\"function\",\"function\":{\"name\":\"f\"}},{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]",
    ),
    (
        "tools",
        "tools[0].function.parameters",
        "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":1}}] [{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"string\"}}}] [{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":[\"object\"]}}}]",
    ),
    ("tools", "tools[0].function.strict", "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"strict\":1}}]"),
    ("tools", "tools[0].function.secret", "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"secret\":1}}]"),
    ("parallel_tool_calls", "parallel_tool_calls", "1 \"true\" []"),
    ("functions", "functions", "[{}] 1"),
    ("tool_choice", "tool_choice", "\"required\" {} 1"),
    ("response_format", "response_format", "{\"type\":\"xml\"} {} 1 []"),
    ("response_format", "response_format.secret", "{\"type\":\"json_object\",\"secret\":1}"),
    (
        "response_format",
        "response_format.json_schema",
        "{\"type\":\"json_schema\"} {\"type\":\"json_schema\",\"json_schema\":1}",
    ),
    (
        "response_format",
        "response_format.json_schema.schema",
        "{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a\"}} {\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a\",\"schema\":{\"type\":\"colour\"}}} {\"type\":\"json_schema\",\"json_schema\":{\"schema\":{\"$ref\":\"#/nowhere\"}}}",
    ),
    ("modalities", "modalities", "[\"audio\"] [\"text\",\"audio\"]"),
    ("audio", "audio", "{} 1"),
    ("prediction", "prediction", "{}"),
    ("reasoning_effort", "reasoning_effort", "\"low\" \"none\" \"much\" 1 {}"),
    ("web_search_options", "web_search_options", "{}"),
    ("store", "store", "true 1"),
    ("service_tier", "service_tier", "\"flex\""),
    ("logprobs", "logprobs", "1 \"true\""),
    ("top_logprobs", "top_logprobs", "1 -1 21"),
    ("max_completion_tokens", "max_completion_tokens", "0 -1 1.5"),
    ("n", "n", "0 9"),
    ("temperature", "temperature", "2.5 1e39"),
];

const EMBEDDINGS: [Case; 4] = [
    ("input", "input", "null 1 {} [] [1,\"a\"] [512] [-1] [[]]"),
    ("encoding_format", "encoding_format", "\"int8\" 1"),
    ("dimensions", "dimensions", "0 1 -1 1000000"),
    ("extra", "extra", "1"),
];

/// Those of responses that chats have not, or have in another place.
const RESPONSES: [Case; 53] = [
    ("input", "input", "null 1 true {} [] [{\"type\":\"reasoning\",\"summary\":[]}]"),
    ("input", "input[0].content", "[{\"type\":\"reasoning\",\"content\":1}]"),
    ("input", "input[0]", "[1] [null] [[]] [\"hi\"]"),
    (
        "input",
        "input[0].type",
        "[{\"type\":\"item_reference\",\"id\":\"a\"}] [{\"type\":1}] [{\"type\":\"web_search_call\"}]",
    ),
    (
        "input",
        "input[0].role",
        "[{}] [{\"role\":\"root\",\"content\":\"a\"}] [{\"role\":\"tool\",\"content\":\"a\"}] [{\"role\":\"function\",\"content\":\"a\"}]",
    ),
    (
        "input",
        "input[0].content",
        "[{\"role\":\"user\"}] [{\"role\":\"user\",\"content\":1}] [{\"role\":\"user\",\"content\":[1]}] [{\"role\":\"user\",\"content\":[{\"type\":\"input_image\"}]}] [{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}] [{\"role\":\"assistant\",\"content\":[{\"type\":\"refusal\",\"refusal\":\"a\"}]}] [{\"role\":\"user\",\"content\":[{\"type\":\"input_text\"}]}]",
    ),
    (
        "input",
        "input[0].content.secret",
        "[{\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"a\",\"secret\":1}]}]",
    ),
    (
        "input",
        "input[0].content.annotations",
        "[{\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"a\",\"annotations\":[]}]}]",
    ),
    ("input", "input[0].phase", "[{\"role\":\"assistant\",\"content\":\"a\",\"phase\":\"commentary\"}]"),
    ("input", "input[0].secret", "[{\"role\":\"user\",\"content\":\"a\",\"secret\":1}]"),
    (
        "input",
        "input[0].call_id",
        "[{\"type\":\"function_call\"}] [{\"type\":\"function_call_output\",\"output\":\"a\"}] [{\"type\":\"function_call_output\",\"output\":\"a\",\"call_id\":\"b\"}]",
    ),
    ("input", "input[0].name", "[{\"type\":\"function_call\",\"call_id\":\"a\"}]"),
    (
        "input",
        "input[0].arguments",
        "[{\"type\":\"function_call\",\"call_id\":\"a\",\"name\":\"f\"}] [{\"type\":\"function_call\",\"call_id\":\"a\",\"name\":\"f\",\"arguments\":{}}] [{\"type\":\"function_call\",\"call_id\":\"a\",\"name\":\"f\",\"arguments\":\"[1]\"}] [{\"type\":\"function_call\",\"call_id\":\"a\",\"name\":\"f\",\"arguments\":\"{\"}]",
    ),
    (
        "input",
        "input[1].output",
        "[{\"type\":\"function_call\",\"call_id\":\"a\",\"name\":\"f\",\"arguments\":\"{}\"},{\"type\":\"function_call_output\",\"call_id\":\"a\"}] [{\"type\":\"function_call\",\"call_id\":\"a\",\"name\":\"f\",\"arguments\":\"{}\"},{\"type\":\"function_call_output\",\"call_id\":\"a\",\"output\":[{\"type\":\"input_file\"}]}]",
    ),
    ("messages", "messages", "[] [{\"role\":\"user\",\"content\":\"a\"}]"),
    ("instructions", "instructions", "1 [] {} true"),
    ("max_output_tokens", "max_output_tokens", "0 -1 1.5 18446744073709551616 \"5\""),
    ("max_tokens", "max_tokens", "5"),
    ("max_completion_tokens", "max_completion_tokens", "5"),
    ("n", "n", "0 2 \"1\""),
    ("temperature", "temperature", "2.5 1e39 \"1\""),
    ("top_k", "top_k", "-2 1.5"),
    ("seed", "seed", "1.5 []"),
    ("stream", "stream", "1 \"true\""),
    ("stream_options", "stream_options", "{} 1 {\"include_obfuscation\":false}"),
    ("tools", "tools", "1 {} [{\"type\":\"function\",\"name\":\"f\"}]"),
    ("tools", "tools[0]", "[1] [null] [[]]"),
    (
        "tools",
        "tools[0].type",
        "[{}] [{\"type\":\"web_search\"}] [{\"type\":\"mcp\",\"server_label\":\"a\"}] [{\"type\":\"custom\",\"name\":\"a\"}]",
    ),
    (
        "tools",
        "tools[0].name",
        "[{\"type\":\"function\"}] [{\"type\":\"function\",\"name\":\"\"}] [{\"type\":\"function\",\"name\":\"a\\\"b\"}] [{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]",
    ),
    ("tools", "tools[1].name", "[{\"type\":\"function\",\"name\":\"f\"},{\"type\":\"function\",\"name\":\"f\"}]"),
    (
        "tools",
        "tools[0].parameters",
        "[{\"type\":\"function\",\"name\":\"f\",\"parameters\":1}] [{\"type\":\"function\",\"name\":\"f\",\"parameters\":{\"type\":\"string\"}}]",
    ),
    ("tools", "tools[0].secret", "[{\"type\":\"function\",\"name\":\"f\",\"secret\":1}]"),
    ("tool_choice", "tool_choice", "\"required\" {} 1 {\"type\":\"allowed_tools\"}"),
    ("text", "text", "1 [] \"a\""),
    ("text", "text.format", "{\"format\":1} {\"format\":{}} {\"format\":{\"type\":\"xml\"}}"),
    (
        "text",
        "text.format.schema",
        "{\"format\":{\"type\":\"json_schema\",\"name\":\"a\"}} {\"format\":{\"type\":\"json_schema\",\"schema\":{\"type\":\"colour\"}}} {\"format\":{\"type\":\"json_schema\",\"schema\":1}}",
    ),
    ("text", "text.format.json_schema", "{\"format\":{\"type\":\"json_schema\",\"schema\":{},\"json_schema\":{}}}"),
    ("text", "text.verbosity", "{\"verbosity\":\"low\"}"),
    ("response_format", "response_format", "{\"type\":\"text\"}"),
    ("include", "include", "1 {}"),
    ("include", "include[0]", "[\"reasoning.encrypted_content\"] [1] [null]"),
    ("top_logprobs", "top_logprobs", "1 -1 21"),
    ("metadata", "metadata", "1 [] {\"a\":1} {\"a\":null}"),
    ("store", "store", "true 1 \"no\""),
    ("background", "background", "true"),
    ("previous_response_id", "previous_response_id", "\"resp_1\" 1"),
    ("conversation", "conversation", "\"conv_1\" {\"id\":\"a\"}"),
    ("prompt", "prompt", "{\"id\":\"a\"} \"a\""),
    ("reasoning", "reasoning", "1 [] \"low\""),
    ("reasoning", "reasoning.effort", "{\"effort\":\"low\"} {\"effort\":1}"),
    ("reasoning", "reasoning.summary", "{\"summary\":\"concise\"}"),
    ("reasoning", "reasoning.secret", "{\"secret\":1}"),
    ("truncation", "truncation", "\"auto\" 1"),
];

/// Sends every case, and returns how many there were.
fn refused(address: SocketAddr, path: &str, base: Value, cases: &[Case]) -> usize {
    let mut client = Client::connect(address);
    let mut count = 0;
    for (field, param, values) in cases {
        for value in values.split(' ') {
            let mut fields = base.as_object().unwrap().clone();
            fields.shift_remove(*field);
            let rest = Value::from(fields).to_string();
            let comma = if rest == "{}" { "" } else { "," };
            client.post(path, &rest.replacen('{', &format!("{{\"{field}\":{value}{comma}"), 1));
            let reply = client.reply();
            let (status, _, named) = reply.error();
            let expected = if *field == "model" && value.starts_with('"') { 404 } else { 400 };
            assert_eq!((status, named.as_deref()), (expected, Some(*param)), "{field} = {value}: {}", reply.text());
            count += 1;
        }
    }
    count
}

#[test]
fn parameters() {
    let server = server();
    let address = server.address();
    let completion = json!({"prompt": "Once", "max_tokens": 4});
    let chat = json!({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4});
    let embedding = json!({"input": "Once"});
    let response = json!({"input": "Hello", "max_output_tokens": 4});
    let mut count = refused(address, "/v1/completions", completion.clone(), &PARAMETERS);
    count += refused(address, "/v1/chat/completions", chat.clone(), &CHATS);
    count += refused(address, "/v1/embeddings", embedding.clone(), &EMBEDDINGS);
    count += refused(address, "/v1/responses", response.clone(), &RESPONSES);
    assert!(count >= 300, "{count} cases");
    for (path, body) in [
        ("/v1/completions", completion),
        ("/v1/chat/completions", chat),
        ("/v1/embeddings", embedding),
        ("/v1/responses", response),
    ] {
        assert_eq!(post(address, path, &body).status, 200, "{path}");
    }
    assert_eq!(server.stats().blocks_used, 0);
    assert!(server.stop());
}

#[test]
fn parameters_together() {
    let server = server();
    let (long, long_text) = (["x"; 17], "a".repeat(300_000));
    let pairs: Value = (0..17).map(|key| (key.to_string(), json!("a"))).collect();
    let bias: Value = (0..1025).map(|id| (id.to_string(), json!(1))).collect();
    for (path, code, body) in [
        ("/v1/completions", "unsupported_parameter", json!({"prompt": "a", "n": 1, "best_of": 3})),
        (
            "/v1/completions",
            "unsupported_parameter",
            json!({"prompt": "a", "echo": true, "logprobs": 1, "stream": true}),
        ),
        ("/v1/completions", "invalid_value", json!({"prompt": "a", "stop": long})),
        (
            "/v1/completions",
            "invalid_value",
            json!({"prompt": "a", "dry_multiplier": 1, "dry_sequence_breakers": ["a", "in no token at all"]}),
        ),
        (
            "/v1/chat/completions",
            "invalid_value",
            json!({"messages": [{"role": "user", "content": "a"}], "dry_multiplier": 1, "dry_sequence_breakers": [""]}),
        ),
        ("/v1/completions", "invalid_value", json!({"prompt": "a", "stop": "x".repeat(1025)})),
        ("/v1/completions", "invalid_value", json!({"prompt": "a", "bad_words": ["x", "x".repeat(16 << 10)]})),
        ("/v1/completions", "invalid_value", json!({"prompt": "a", "logit_bias": bias})),
        ("/v1/completions", "invalid_value", json!({"prompt": "a", "stop_token_ids": vec![1; 257]})),
        ("/v1/completions", "invalid_value", json!({"prompt": "a", "allowed_token_ids": [512]})),
        ("/v1/completions", "invalid_value", json!({"prompt": vec!["a"; 33], "n": 8})),
        (
            "/v1/completions",
            "unsupported_parameter",
            json!({"prompt": "a", "stream": true, "stream_options": {"include_obfuscation": true}}),
        ),
        (
            "/v1/completions",
            "unknown_parameter",
            json!({"prompt": "a", "stream": true, "stream_options": {"other": 1}}),
        ),
        (
            "/v1/chat/completions",
            "invalid_value",
            json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "max_completion_tokens": 2}),
        ),
        (
            "/v1/chat/completions",
            "invalid_value",
            json!({"messages": [{"role": "user", "content": "a"}], "top_logprobs": 2}),
        ),
        ("/v1/responses", "invalid_value", json!({"input": "a", "instructions": "a".repeat((1 << 20) + 1)})),
        (
            "/v1/responses",
            "invalid_value",
            json!({"input": "a", "text": {"format": {"type": "text", "name": long_text}}}),
        ),
        ("/v1/responses", "invalid_value", json!({"input": "a", "metadata": {"a": "a".repeat(513)}})),
        ("/v1/responses", "invalid_value", json!({"input": "a", "metadata": {"a".repeat(65): "a"}})),
        ("/v1/responses", "invalid_value", json!({"input": "a", "metadata": pairs})),
        ("/v1/responses", "context_length_exceeded", json!({"input": "a", "instructions": "a b ".repeat(400)})),
        ("/v1/responses", "context_length_exceeded", json!({"input": "a", "max_output_tokens": u64::MAX})),
        ("/v1/embeddings", "invalid_value", json!({"input": vec!["a"; 257]})),
        ("/v1/embeddings", "context_length_exceeded", json!({"input": "a ".repeat(2000)})),
    ] {
        let reply = post(server.address(), path, &body);
        let (status, found, _) = reply.error();
        assert_eq!((status, found.as_str()), (400, code), "{}", reply.text());
        let ours = ["stop_strings", "stop_tokens", "allowed_tokens"];
        assert!(!ours.iter().any(|name| reply.text().contains(name)), "{}", reply.text());
    }
    assert!(server.stop());
}

#[test]
fn what_says_nothing_is_taken() {
    let server = server();
    let chat = json!({
        "model": "stories", "messages": [{"role": "user", "content": "a", "name": "b", "tool_calls": null}], "max_tokens": 2,
        "tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "user": "me", "metadata": {"a": "b"},
        "store": false, "service_tier": "auto", "temperature": null, "stop": null, "top_p": 0, "modalities": ["text"],
        "unknown": null, "logit_bias": {"5": -100, "6": 100}, "stop_token_ids": [511], "seed": -5,
        "typical_p": 0, "xtc_threshold": 0, "dry_penalty_last_n": -1, "dry_sequence_breakers": ["in no token at all"],
    });
    let response = json!({
        "model": "stories", "input": [{"role": "user", "content": "a", "phase": null, "id": "b", "status": "completed"}],
        "max_output_tokens": 2, "tools": [], "tool_choice": "none", "text": {"format": {"type": "text"}, "verbosity": null},
        "user": "me", "metadata": {"a": "b"}, "store": false, "background": false, "service_tier": "auto", "include": [],
        "truncation": "disabled", "previous_response_id": null, "reasoning": null, "conversation": null, "stop": null,
        "safety_identifier": "a", "prompt_cache_key": "b", "top_logprobs": 0, "stream": true,
        "stream_options": {"include_obfuscation": false},
    });
    for (path, body) in [("/v1/chat/completions", chat), ("/v1/responses", response)] {
        let reply = post(server.address(), path, &body);
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    assert!(server.stop());
}

#[test]
fn a_context_that_overflows_names_both_numbers() {
    let server = server();
    for (path, body) in [
        ("/v1/completions", json!({"prompt": "a b ".repeat(400)})),
        ("/v1/completions", json!({"prompt": vec![5; 500], "max_tokens": 13})),
        ("/v1/completions", json!({"prompt": vec![5; 513], "max_tokens": 1, "stream": true})),
        ("/v1/completions", json!({"prompt": "a", "max_tokens": u64::MAX})),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "a b ".repeat(400)}]})),
    ] {
        let reply = post(server.address(), path, &body);
        let (status, code, _) = reply.error();
        assert_eq!((status, code.as_str()), (400, "context_length_exceeded"), "{}", reply.text());
        assert!(reply.text().contains("512"), "{}", reply.text());
        let numbers = reply.text().split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty()).count();
        assert!(numbers >= 3, "{}", reply.text());
    }
    let fits = post(
        server.address(),
        "/v1/completions",
        &json!({"prompt": vec![5; 500], "max_tokens": 12, "ignore_eos": true}),
    );
    assert_eq!(fits.json()["usage"]["total_tokens"], 512);
    assert!(server.stop());
}

#[test]
fn bodies() {
    let bounds = Bounds { body: 100_000, ..Bounds::default() };
    let server = serve(engine(engine_options()), bounds);
    let prompt = |prompt: &str| format!("{{\"prompt\":{prompt}}}").into_bytes();
    let deep = |depth: usize| prompt(&format!("{}{}", "[".repeat(depth), "]".repeat(depth)));
    let mut invalid: Vec<Vec<u8>> =
        ["", "{:", "{", "}", "[]", "1", "null", "\"a\"", "{\"prompt\":\"a\"}}", "{\"prompt\":NaN}", "{'prompt':'a'}"]
            .iter()
            .map(|body| body.as_bytes().to_vec())
            .collect();
    invalid.extend([
        prompt("\"\u{feff}")[..5].to_vec(),
        [b"\xEF\xBB\xBF".to_vec(), prompt("\"a\"")].concat(),
        [b"{\"prompt\":\"".to_vec(), b"\xFF\xFE\"}".to_vec()].concat(),
        [b"{\"prompt\":\"".to_vec(), b"\xED\xA0\x80\"}".to_vec()].concat(),
        prompt("\"\\ud800\""),
        prompt("\"a\nb\""),
        prompt("1e999"),
        deep(200),
        deep(40_000),
        vec![0; 1000],
        vec![b'['; 90_000],
        vec![b'{'; 90_000],
    ]);
    let mut client = Client::connect(server.address());
    for body in &invalid {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]);
        let head = request("/v1/completions", "");
        let head =
            String::from_utf8(head).unwrap().replace("Content-Length: 0", &format!("Content-Length: {}", body.len()));
        client.send(head.as_bytes());
        client.send(body);
        assert_eq!(client.reply().error(), (400, "invalid_json".into(), None), "{shown}");
    }
    assert_eq!(post(server.address(), "/v1/completions", &json!({"prompt": "x".repeat(100_001)})).error().0, 413);
    assert!(server.stop());
}

#[test]
fn heads() {
    let bounds = Bounds { body: 1000, head_time: Duration::from_secs(60), ..Bounds::default() };
    let server = serve(engine(engine_options()), bounds);
    let address = server.address();
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let big = "x".repeat(1 << 20);
    let chunked =
        |size: usize| format!("{head}Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(size));
    for (expected, what, bytes) in [
        (431, "a header of 1 MB", format!("{head}X: {big}\r\n\r\n")),
        (431, "200 headers", format!("{head}{}\r\n", "X: y\r\n".repeat(200))),
        (431, "a path of 1 MB", format!("GET /{big} HTTP/1.1\r\nHost: localhost\r\n\r\n")),
        (413, "a length beyond the bound", format!("{head}Content-Length: 100000000\r\n\r\n")),
        (400, "a length beyond 64 bits", format!("{head}Content-Length: 99999999999999999999\r\n\r\n")),
        (400, "a negative length", format!("{head}Content-Length: -1\r\n\r\n")),
        (400, "two lengths", format!("{head}Content-Length: 1\r\nContent-Length: 2\r\n\r\n{{}}")),
        (400, "no request", "hello\r\n\r\n".into()),
        (400, "another protocol", "\u{16}\u{3}\u{1}\u{2}\r\n\r\n".into()),
        (413, "chunks beyond the bound", chunked(2000)),
        (400, "chunks that are not JSON", chunked(20)),
        (415, "no kind", "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}".into()),
        (415, "a form", "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 2\r\n\r\n{}".into()),
        (403, "another host", "GET /v1/models HTTP/1.1\r\nHost: example.com\r\n\r\n".into()),
        (404, "a path upwards", "GET /v1/models/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n".into()),
        (405, "another method", "BREW /v1/completions HTTP/1.1\r\nHost: localhost\r\n\r\n".into()),
    ] {
        let mut client = Client::connect(address);
        client.send(bytes.as_bytes());
        let found = client.head().map(|reply| reply.status);
        // Who is refused before all was received may see the connection break.
        assert!(found == Some(expected) || found.is_none() && bytes.len() > 1 << 20, "{what}: {found:?}");
    }
    let mut client = Client::connect(address);
    client.send(format!("{head}Content-Length: 500\r\n\r\n{{").as_bytes());
    client.stream().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.reply().error().1, "incomplete_body");
    assert_eq!(post(address, "/v1/completions", &json!({"prompt": "a"})).status, 200);
    assert!(server.stop());
}

#[test]
fn keys() {
    let options = Options { api_keys: vec!["first".into(), "second".into()], ..Options::default() };
    let server = serve_with(engine(engine_options()), options);
    let ask = |path: &str, header: &str| {
        let mut client = Client::connect(server.address());
        client.send(format!("GET {path} HTTP/1.1\r\nHost: anything\r\n{header}\r\n").as_bytes());
        client.reply().status
    };
    for path in ["/v1/models", "/metrics", "/nowhere"] {
        for wrong in
            ["", "Authorization: Bearer third\r\n", "Authorization: first\r\n", "Authorization: Bearer firs\r\n"]
        {
            assert_eq!(ask(path, wrong), 401, "{path} {wrong}");
        }
    }
    assert_eq!(ask("/v1/models", "Authorization: Bearer second\r\n"), 200);
    assert_eq!(ask("/health", ""), 200);
    assert_eq!(post(server.address(), "/v1/completions", &json!({"prompt": "a"})).error().1, "invalid_api_key");
    assert!(server.stop());
}
