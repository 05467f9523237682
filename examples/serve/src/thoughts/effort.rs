//! How much the model is to think, where its template has a choice.

use serde_json::{Map, Value};

use super::Tags;
use crate::error::{ApiError, Result};
use crate::fields::Fields;
use crate::served::Served;

/// By which templates know whether the model is to think, and how much.
const SWITCH: &str = "enable_thinking";
const EFFORT: &str = "reasoning_effort";
/// What may be said of it.
const EFFORTS: [&str; 6] = ["none", "minimal", "low", "medium", "high", "xhigh"];

/// Whether the template has a choice of thinking, or is of a model that was taught to think.
pub fn is_known(served: &Served) -> bool {
    mentions(served, SWITCH) || Tags::of(served.template.as_ref()).is_some()
}

/// Has the model think or not, unless the `variables` of the template say so already.
pub fn switch(on: bool, variables: &mut Map<String, Value>) {
    variables.entry(SWITCH).or_insert(on.into());
}

/// Takes the effort out of `name` among `fields`, for the template. The variables that a request gives it have their way. `none` turns
/// off the switch, too, and where there is nothing but a switch the others turn it on.
///
/// # Errors
/// A 400 about the field: for another effort, and for a template that has no such choice.
pub fn take(served: &Served, fields: &mut Fields, name: &str, variables: &mut Map<String, Value>) -> Result<()> {
    let known = |value: &Value| EFFORTS.into_iter().find(|effort| value == effort);
    let expected = "none, minimal, low, medium, high or xhigh";
    let Some(effort) = fields.checked(name, expected, known)? else { return Ok(()) };
    let (graded, switched) = (mentions(served, EFFORT), mentions(served, SWITCH));
    if !graded && !switched {
        let path = fields.path(name);
        let problem = format!("the chat template of {} has no choice of how much to think; leave it out", served.name);
        return Err(ApiError::lacking(&path, format!("{path} is {effort}, and {problem}")));
    }
    if graded {
        variables.entry(EFFORT).or_insert(effort.into());
    }
    if switched && (effort == "none" || !graded) {
        switch(effort != "none", variables);
    }
    Ok(())
}

fn mentions(served: &Served, variable: &str) -> bool {
    served.template.as_ref().is_some_and(|template| template.mentions(variable))
}
