//! Messages that are still being put together, for the endpoints where what was said and called in one turn comes in several pieces.

use serde_json::{Value, json};

use crate::error::Result;
use crate::messages::{Conversation, THOUGHTS};

/// The messages so far, as templates expect them.
pub struct Turns {
    /// What was called in them.
    pub conversation: Conversation,
    /// Those that may still be added to.
    messages: Vec<Value>,
}

impl Turns {
    /// Nothing yet, of what is in the request's `field`.
    pub fn new(field: &'static str) -> Self {
        Turns { conversation: Conversation::new(field), messages: Vec::new() }
    }

    /// The last message.
    pub fn last(&mut self) -> Option<&mut Value> {
        self.messages.last_mut()
    }

    /// Adds a message with a text.
    pub fn say(&mut self, role: &str, text: String) {
        self.messages.push(json!({"role": role, "content": text}));
    }

    /// Adds what the assistant thought before its message, which is the last one.
    pub fn think(&mut self, thoughts: &str) {
        let Some(last) = self.messages.last_mut().filter(|_| !thoughts.is_empty()) else { return };
        match last.get_mut(THOUGHTS) {
            Some(Value::String(before)) => before.push_str(thoughts),
            _ => last[THOUGHTS] = thoughts.into(),
        }
    }

    /// Adds a call, which joins the assistant's message right before it.
    pub fn call(&mut self, call: Value) {
        match self.messages.last_mut().filter(|last| last["role"] == "assistant") {
            Some(last) => match last.get_mut("tool_calls").and_then(Value::as_array_mut) {
                Some(calls) => calls.push(call),
                None => last["tool_calls"] = json!([call]),
            },
            None => self.messages.push(json!({"role": "assistant", "content": "", "tool_calls": [call]})),
        }
    }

    /// Adds what came of a call of `function`, of which this is the id.
    pub fn answer(&mut self, (id, function): (String, String), text: String) {
        self.messages.push(json!({"role": "tool", "content": text, "tool_call_id": id, "name": function}));
    }

    /// The conversation that they are.
    ///
    /// # Errors
    /// [`Conversation::push`]'s.
    pub fn end(mut self) -> Result<Conversation> {
        for message in self.messages {
            self.conversation.push(message)?;
        }
        Ok(self.conversation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thoughts_in_many_pieces_are_one() {
        let mut turns = Turns::new("messages");
        turns.say("assistant", String::new());
        turns.think("a");
        (0..1000).for_each(|_| turns.think("b"));
        let message = turns.last().expect("a message");
        assert_eq!(message[THOUGHTS].as_str(), Some(&*("a".to_owned() + &"b".repeat(1000))));
    }
}
