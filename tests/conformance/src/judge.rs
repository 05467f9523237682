//! When outputs count as the same, and when as near enough.
//!
//! *Near enough* has two forms. Sums over many numbers are judged as a [whole](Judge::Whole(2)): the largest error of an
//! output may be twice the largest of the plain computation. A plain computation of few numbers may come out luckier than
//! its roundings, so each of these counts for half a unit in the last place of the largest value at least. What is
//! computed element by element is judged [so](Judge::Each), each element against its own size, and there the extraordinary
//! counts too: what is NaN in f64 never becomes an ordinary number, and an infinity stays that infinity.
//!
//! Nothing is owed for an element of a whole whose plain computation is not finite (docs/numerics.md).

use llama_core::backend::Role;

use super::Width;

/// How an output is judged where a bound is owed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Judge {
    /// By its largest error; the plain computation rounds an element so many times, sums aside.
    Whole(u32),
    /// Element by element: twice the plain error, and so many units in the last place.
    Each(f64),
    /// Not at all: nothing of the graph reads it again, and a backend may leave there what it likes. Where bits are owed
    /// they are compared.
    Unread,
}

/// One matrix that a scene ended with.
#[derive(Debug, Clone)]
pub struct Output {
    /// What it is.
    pub what: &'static str,
    /// What it is for, which says how many bits it has.
    pub role: Role,
    /// How it is judged.
    pub judge: Judge,
    /// Its values.
    pub values: Vec<f64>,
}

impl Output {
    /// An output that is judged as a whole, and is rounded twice: a sum, and what is done to it.
    pub fn new(what: &'static str, role: Role, values: Vec<f64>) -> Self {
        Output { what, role, judge: Judge::Whole(2), values }
    }
}

/// Equality of bits; two NaNs are equal.
pub fn same(got: &[Output], want: &[Output]) -> Result<(), String> {
    assert_eq!(got.len(), want.len(), "outputs of one scene");
    got.iter().zip(want).try_for_each(|(got, want)| same_values(got.what, &got.values, &want.values))
}

/// Equality of bits; two NaNs are equal.
pub fn same_values(what: &str, got: &[f64], want: &[f64]) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{what}: {} values, not {}", got.len(), want.len()));
    }
    let equal = |(got, want): (&f64, &f64)| got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
    match got.iter().zip(want).position(|pair| !equal(pair)) {
        Some(i) => Err(format!("{what}: [{i}] {:e} not {:e}", got[i], want[i])),
        None => Ok(()),
    }
}

/// Errors against `truth` within what `plain` allows.
pub fn within(got: &[Output], plain: &[Output], truth: &[Output], width: Width) -> Result<(), String> {
    assert_eq!(got.len(), truth.len(), "outputs of one scene");
    for ((got, plain), truth) in got.iter().zip(plain).zip(truth) {
        if got.values.len() != truth.values.len() {
            return Err(format!("{}: {} values, not {}", got.what, got.values.len(), truth.values.len()));
        }
        let width = width.of(got.role);
        match got.judge {
            Judge::Whole(roundings) => whole(got, plain, truth, width, roundings)?,
            Judge::Each(ulps) => each(got, plain, truth, width, ulps)?,
            Judge::Unread => {}
        }
    }
    Ok(())
}

fn whole(got: &Output, plain: &Output, truth: &Output, width: Width, roundings: u32) -> Result<(), String> {
    let owed = || plain.values.iter().zip(&truth.values).enumerate().filter(|(_, (plain, _))| plain.is_finite());
    let largest = owed().map(|(_, (_, truth))| truth.abs()).fold(0.0, f64::max);
    let plainly = owed().map(|(_, (plain, truth))| (plain - truth).abs()).fold(0.0, f64::max);
    let allowed = (2.0 * plainly).max(f64::from(roundings) * width.ulp(largest) / 2.0);
    for (i, (_, truth)) in owed() {
        let error = (got.values[i] - truth).abs();
        if error.is_nan() || error > allowed {
            let value = got.values[i];
            return Err(format!(
                "{}: [{i}] {value:e}, in f64 {truth:e}: error {error:.2e}, allowed {allowed:.2e}",
                got.what
            ));
        }
    }
    Ok(())
}

fn each(got: &Output, plain: &Output, truth: &Output, width: Width, ulps: f64) -> Result<(), String> {
    for (i, &value) in got.values.iter().enumerate() {
        let (plain, truth) = (plain.values[i], truth.values[i]);
        let nearest = width.round(truth);
        let right = if nearest.is_finite() {
            (value - truth).abs() <= (2.0 * (plain - truth).abs()).max(ulps * width.ulp(truth))
        } else {
            value == nearest || nearest.is_nan() && !value.is_finite()
        };
        if !right {
            return Err(format!("{}: [{i}] {value:e}, in f64 {truth:e}, plainly {plain:e}", got.what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(values: &[f64], judge: Judge) -> Vec<Output> {
        vec![Output { what: "out", role: Role::Activation, judge, values: values.to_vec() }]
    }

    fn judged(got: f64, plain: f64, truth: f64, judge: Judge) -> bool {
        let [got, plain, truth] = [got, plain, truth].map(|x| output(&[x, 1.0], judge));
        within(&got, &plain, &truth, Width::Bf16).is_ok()
    }

    #[test]
    fn a_whole_is_held_to_twice_the_plain_error() {
        let ulp = 2f64.powi(-7);
        assert!(judged(1.0 + 6.0 * ulp, 1.0 + 3.0 * ulp, 1.0, Judge::Whole(2)));
        assert!(!judged(1.0 + 6.1 * ulp, 1.0 + 3.0 * ulp, 1.0, Judge::Whole(2)));
        assert!(judged(1.0 + ulp, 1.0, 1.0, Judge::Whole(2)));
        assert!(!judged(1.0 + 1.1 * ulp, 1.0, 1.0, Judge::Whole(2)));
        assert!(judged(1.0 + 1.5 * ulp, 1.0, 1.0, Judge::Whole(3)));
        assert!(!judged(f64::NAN, 1.0 + ulp, 1.0, Judge::Whole(2)));
        assert!(judged(5.0, f64::NAN, 1.0, Judge::Whole(2)), "nothing is owed");
    }

    #[test]
    fn an_element_is_held_to_its_own_size_and_kind() {
        let (ulp, each) = (2f64.powi(-27), Judge::Each(1.0));
        assert!(judged(2f64.powi(-20) + ulp, 2f64.powi(-20), 2f64.powi(-20), each));
        assert!(!judged(2f64.powi(-20) + 1.1 * ulp, 2f64.powi(-20), 2f64.powi(-20), each));
        assert!(judged(f64::NAN, f64::NAN, f64::NAN, each));
        assert!(!judged(1.0, f64::NAN, f64::NAN, each));
        assert!(judged(f64::INFINITY, f64::INFINITY, 1e60, each));
        assert!(!judged(f64::NEG_INFINITY, f64::INFINITY, f64::INFINITY, each));
        assert!(!judged(1e38, f64::INFINITY, f64::INFINITY, each));
    }

    #[test]
    fn bits_are_bits() {
        assert!(same_values("x", &[0.0, f64::NAN], &[0.0, f64::NAN]).is_ok());
        assert!(same_values("x", &[0.0], &[-0.0]).is_err());
        assert!(same_values("x", &[0.0], &[0.0, 0.0]).is_err());
    }
}
