//! Finding things by name in the order a file lists them, at four bytes a name.

/// Positions of a list, sorted by the names at them.
#[derive(Debug, Default)]
pub(crate) struct Lookup(Vec<u32>);

impl Lookup {
    /// Sorts `count` names; `Err` holds the later position of a name that occurs twice.
    pub(crate) fn new<'a>(count: usize, name: impl Fn(usize) -> &'a str) -> Result<Lookup, usize> {
        let mut order: Vec<u32> = (0..count as u32).collect();
        order.sort_unstable_by(|&a, &b| name(a as usize).cmp(name(b as usize)).then(a.cmp(&b)));
        match order.windows(2).find(|pair| name(pair[0] as usize) == name(pair[1] as usize)) {
            Some(pair) => Err(pair[1] as usize),
            None => Ok(Lookup(order)),
        }
    }

    /// Where `wanted` is; `name` must be the function that the lookup was made with.
    pub(crate) fn find<'a>(&self, wanted: &str, name: impl Fn(usize) -> &'a str) -> Option<usize> {
        let place = self.0.binary_search_by(|&i| name(i as usize).cmp(wanted)).ok()?;
        Some(self.0[place] as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_and_refuses_twins() {
        let names = ["b", "a", "c"];
        let lookup = Lookup::new(3, |i| names[i]).unwrap();
        assert_eq!(lookup.find("a", |i| names[i]), Some(1));
        assert_eq!(lookup.find("d", |i| names[i]), None);
        assert_eq!(Lookup::new(3, |i| ["x", "y", "x"][i]).unwrap_err(), 2);
    }
}
