//! A bound on the work of walking values.
//!
//! The engine's fuel pays for the instructions that build a value, not for walking it: a few dozen times
//! `{% set x = [x, x] %}` make a value that takes longer to compare, join or print than anybody can wait. There is no hook
//! in `==`, `~` or `in`. But the engine walks every container through the trait [`Object`]; so each list, map and tuple
//! is wrapped in an object of ours (see [`super::source`] for how it gets there) that counts each item it hands out, wraps
//! that item in turn, and when the count is used up unwinds the thread of the render. Nothing else can stop a comparison in
//! the middle. The unwinding is silent, and caught where that thread is joined.
//!
//! Namespaces can be changed, so one that contained itself would be a walk without end. None may be in a container.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::{cmp, fmt};

use minijinja::value::{DynObject, Enumerator, Kwargs, Object, ObjectExt, ObjectRepr, Rest};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};

/// The function that wraps a value. A template that contains this word is refused.
pub(super) const COUNTED: &str = "counted_value";
/// The function that wraps what a namespace is to hold.
pub(super) const MEMBER: &str = "counted_value_member";
/// Bytes of a string that cost as much as an item.
const BYTES_AN_ITEM: usize = 64;

/// What the thread of a render unwinds with.
pub(super) struct Spent(pub &'static str);

/// Items that may still be visited in a render.
pub(super) struct Meter(AtomicU64);

impl Meter {
    pub fn new(items: u64) -> Arc<Self> {
        Arc::new(Meter(AtomicU64::new(items)))
    }

    /// Makes `environment` wrap what its filters and functions return, and know the function that wraps.
    pub fn install(self: &Arc<Self>, environment: &mut Environment<'_>) {
        let meter = self.clone();
        environment.add_function(COUNTED, move |value: Value| meter.count(value));
        let meter = self.clone();
        environment.add_function(MEMBER, move |value: Value| meter.member(value));
        for (name, filter) in [
            ("batch", Value::from_function(filters::batch)),
            ("chain", Value::from_function(filters::chain)),
            ("groupby", Value::from_function(filters::groupby)),
            ("list", Value::from_function(filters::list)),
            ("map", Value::from_function(filters::map)),
            ("slice", Value::from_function(filters::slice)),
            ("zip", Value::from_function(filters::zip)),
        ] {
            let meter = self.clone();
            let wrapped = move |state: &mut State, args: Rest<Value>| filter.call(state, &args).map(|v| meter.count(v));
            environment.add_filter(name, wrapped);
        }
        let globals: Vec<_> = environment.globals().map(|(name, function)| (name.to_owned(), function)).collect();
        for (name, function) in globals.into_iter().filter(|(name, _)| name == "dict" || name == "namespace") {
            let meter = self.clone();
            let wrapped = move |state: &mut State, fields: Kwargs| {
                let field = |name| Ok((Value::from(name), meter.member(fields.get(name)?)?));
                let fields = fields.args().map(field).collect::<Result<BTreeMap<Value, Value>, Error>>();
                function.call(state, &[Value::from(fields?)]).map(|made| meter.count(made))
            };
            environment.add_function(name, wrapped);
        }
    }

    /// `value`, wrapped if it is a container.
    pub fn count(self: &Arc<Self>, value: Value) -> Value {
        match value.as_object() {
            Some(object) if is_container(object) => {
                Value::from_object(Counted { object: object.clone(), meter: self.clone() })
            }
            _ => value,
        }
    }

    /// `value` as something that a container may hold.
    fn member(self: &Arc<Self>, value: Value) -> Result<Value, Error> {
        match value.as_object().is_some_and(is_namespace) {
            true => Err(Error::new(ErrorKind::InvalidOperation, NO_NAMESPACE)),
            false => Ok(self.count(value)),
        }
    }

    /// An item on its way out of a container.
    fn visit(self: &Arc<Self>, item: Value) -> Value {
        self.pay(1 + item.as_str().map_or(0, str::len) / BYTES_AN_ITEM);
        self.member(item).unwrap_or_else(|_| resume_unwind(Box::new(Spent(NO_NAMESPACE))))
    }

    fn pay(&self, items: usize) {
        match self.0.load(Relaxed).checked_sub(items as u64) {
            Some(left) => self.0.store(left, Relaxed),
            None => resume_unwind(Box::new(Spent("values are too large or share too much to be walked"))),
        }
    }
}

const NO_NAMESPACE: &str = "a namespace cannot be in a list, a map or another namespace";

fn is_namespace(object: &DynObject) -> bool {
    object.type_name().ends_with("::Namespace")
}

fn is_container(object: &DynObject) -> bool {
    let special = is_namespace(object)
        || object.is::<Counted>()
        || object.type_name().ends_with("::Loop")
        || Value::from_dyn_object(object.clone()).is_kwargs();
    !special && !matches!(object.repr(), ObjectRepr::Plain)
}

/// A container of which every visit counts.
struct Counted {
    object: DynObject,
    meter: Arc<Meter>,
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a container")
    }
}

impl Counted {
    fn is_tuple(&self) -> bool {
        Value::from_dyn_object(self.object.clone()).is_tuple()
    }
}

impl Object for Counted {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        self.object.repr()
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.meter.pay(1);
        self.object.get_value(key).map(|item| self.meter.visit(item))
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.meter.pay(1);
        self.object.get_value_by_str(key).map(|item| self.meter.visit(item))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.meter.pay(1);
        let length = self.object.enumerator_len();
        match (self.repr(), length) {
            (ObjectRepr::Seq, Some(length)) => Enumerator::Seq(length),
            _ => match self.object.try_iter() {
                None => Enumerator::NonEnumerable,
                Some(items) => {
                    let meter = self.meter.clone();
                    Enumerator::Iter(Box::new(items.map(move |item| meter.visit(item))))
                }
            },
        }
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        self.meter.pay(1);
        self.object.enumerator_len()
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.meter.pay(1);
        self.object.is_true()
    }

    fn call_method(self: &Arc<Self>, state: &mut State, method: &str, args: &[Value]) -> Result<Value, Error> {
        self.object.call_method(state, method, args).map(|made| self.meter.count(made))
    }

    /// A tuple is not a list; everything else is the engine's to compare.
    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<cmp::Ordering> {
        let other = other.downcast_ref::<Counted>()?;
        match self.is_tuple().cmp(&other.is_tuple()) {
            cmp::Ordering::Equal => None,
            unequal => Some(unequal),
        }
    }

    /// As the engine prints: a tuple in parentheses, the length of an iterator is not known.
    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items = || self.try_iter().into_iter().flatten();
        match (self.repr(), self.enumerator_len()) {
            (ObjectRepr::Map, _) => f.debug_map().entries(self.try_iter_pairs().into_iter().flatten()).finish(),
            (_, None) => f.write_str("<iterator>"),
            (_, Some(length)) if self.is_tuple() => {
                f.write_str("(")?;
                for (i, item) in items().enumerate() {
                    write!(f, "{}{item:?}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str(if length == 1 { ",)" } else { ")" })
            }
            _ => f.debug_list().entries(items()).finish(),
        }
    }
}
