//! Choosing from a codebook: how the encoders of IQ1, IQ2 and IQ3 approximate vectors of numbers.
//!
//! The error of a word `c` with scale `s` is `w . x^2 - 2 s (w x . c) + s^2 (w . c^2)`, w how often each number's error
//! counts, so one pass of products serves every scale: try a few of them between the one that maps the largest number to
//! the highest level and one that maps it to a low one, take the nearest word of each vector, solve for the scale
//! (`(sum of w x . c) / (sum of w . c^2)`), keep the solution with the least squared error, and solve from there again.
//! Then the scales of a block become odd multiples of one `f16`: of those about the wanted one that with the least error
//! once words are chosen anew; and that `f16` is solved for. Complete on purpose: every word is looked at, eight at once.

use super::block::{Half, SUPER, inverse, narrow, widen};
use super::codebook::Codebook;
use super::fit::{Fit, HARDLY, NOTHING};

/// Scales tried: the first, and four at equal ratios, by square roots, which unlike others have the same bits everywhere.
const TRIES: usize = 5;

/// Integers tried on either side of the one for the wanted scale.
const NEAR: u8 = 2;

/// The largest number is mapped to no lower level than the highest by this, for few would be left that the others could
/// have; and once to the lowest, for numbers that are all alike.
const DEEPEST: f32 = 5.0;

/// How often the best scale is solved for anew, with its own words.
const REFINEMENTS: usize = 1;

/// Words that are looked at together.
const LANES: usize = 8;

/// The words of a codebook as numbers.
pub(super) struct Words<const N: usize> {
    /// The levels of [`LANES`] words at each of the places.
    words: Vec<[[f32; LANES]; N]>,
    /// Half of their squares.
    half_squares: Vec<[[f32; LANES]; N]>,
    /// Lowest and highest magnitude in a word.
    range: (f32, f32),
}

impl<const N: usize> Words<N> {
    /// These words, numbered in this order: a multiple of eight.
    pub fn new(words: impl Iterator<Item = [i8; N]>) -> Self {
        let words: Vec<[f32; N]> = words.map(|word| word.map(f32::from)).collect();
        let levels = || words.iter().flatten().map(|v| v.abs());
        let range = (levels().fold(f32::MAX, f32::min), levels().fold(0.0, f32::max));
        let lanes = |words: &[[f32; N]; LANES]| std::array::from_fn(|k| std::array::from_fn(|l| words[l][k]));
        let words: Vec<[[f32; LANES]; N]> = words.as_chunks().0.iter().map(lanes).collect();
        let half_squares = words.iter().map(|words| words.map(|levels| levels.map(|v| 0.5 * v * v))).collect();
        Words { words, half_squares, range }
    }

    /// The words of `book`.
    pub fn of(book: &Codebook<N>) -> Self {
        Words::new(book.vectors())
    }

    /// Every word against vectors that share a scale.
    fn against(&self, x: &[[f32; N]], weights: &[[f32; N]]) -> Products {
        let vectors = x.iter().zip(weights).map(|(x, weights)| self.products(x, weights)).collect();
        Products { vectors, largest: largest(x, weights), range: self.range }
    }

    fn products(&self, x: &[f32; N], weights: &[f32; N]) -> Vec<Product> {
        let wx: [f32; N] = std::array::from_fn(|k| weights[k] * x[k]);
        let product =
            |(words, half_squares)| Product { dot: dots(&wx, words), half_square: dots(weights, half_squares) };
        self.words.iter().zip(&self.half_squares).map(product).collect()
    }
}

/// Of a vector with each of eight words. As for [`nearest`], vector instructions come of a function of its own.
#[inline(never)]
fn dots<const N: usize>(x: &[f32; N], words: &[[f32; LANES]; N]) -> [f32; LANES] {
    let mut dots = [0.0; LANES];
    for k in 0..N {
        for l in 0..LANES {
            dots[l] += x[k] * words[k][l];
        }
    }
    dots
}

/// The largest magnitude of numbers that count more than hardly.
fn largest<const N: usize>(x: &[[f32; N]], weights: &[[f32; N]]) -> f32 {
    let most = weights.iter().flatten().fold(0.0f32, |max, &w| max.max(w));
    let numbers = x.iter().flatten().zip(weights.iter().flatten());
    numbers.filter(|number| *number.1 >= HARDLY * most).fold(0.0, |max, number| max.max(number.0.abs()))
}

/// `w x . c` and half of `w . c^2` of eight words.
struct Product {
    dot: [f32; LANES],
    half_square: [f32; LANES],
}

/// The products of vectors that share a scale with every word.
struct Products {
    vectors: Vec<Vec<Product>>,
    largest: f32,
    range: (f32, f32),
}

/// The best words at a scale: their places are not kept where only the scale is sought.
#[derive(Clone, Copy, Default)]
struct Sums {
    dot: f32,
    square: f32,
}

impl Products {
    /// The positive scale with which words approximate all vectors best, among those tried; 0 for zeros.
    fn fit(&self) -> Fit {
        let mut best = Fit::NONE;
        if self.largest < NOTHING {
            return best;
        }
        let (low, high) = self.range;
        let low = low.max(high / DEEPEST);
        let step = (1.1 * high / low).sqrt().sqrt();
        let mut scale = self.largest / (1.1 * high);
        for _ in 0..TRIES {
            best = best.or(self.solve(scale));
            scale *= step;
        }
        best = best.or(self.solve(self.largest / self.range.0));
        for _ in 0..REFINEMENTS {
            best = best.or(self.solve(best.scale));
        }
        best
    }

    /// The best scale for the words nearest at this one.
    fn solve(&self, scale: f32) -> Fit {
        let Sums { dot, square } = self.sums(scale, |_| ());
        let scale = dot.max(0.0) * inverse(square);
        Fit { scale, gain: scale * dot }
    }

    /// Chooses a word for each vector, tells which, and sums up their products.
    fn sums(&self, scale: f32, mut chosen: impl FnMut(usize)) -> Sums {
        let mut sums = Sums::default();
        for products in &self.vectors {
            let word = nearest(products, scale);
            let product = &products[word / LANES];
            sums.dot += product.dot[word % LANES];
            sums.square += 2.0 * product.half_square[word % LANES];
            chosen(word);
        }
        sums
    }
}

/// The word whose gain `2 s (w x . c) - s^2 (w . c^2)` is largest. Where this is inlined the loop does not become vector
/// instructions.
#[inline(never)]
fn nearest(products: &[Product], scale: f32) -> usize {
    let mut best = [f32::NEG_INFINITY; LANES];
    // Places are floats because then all that is chosen between is.
    let (mut place, mut i) = ([0.0f32; LANES], 0.0f32);
    for product in products {
        for l in 0..LANES {
            let gain = product.dot[l] - scale * product.half_square[l];
            place[l] = if gain > best[l] { i } else { place[l] };
            best[l] = if gain > best[l] { gain } else { best[l] };
        }
        i += 1.0;
    }
    let lane = (1..LANES).fold(0, |lane, l| if best[l] > best[lane] { l } else { lane });
    LANES * place[lane] as usize + lane
}

/// A block of `M` vectors with `S` scales, `(2 s + 1) * unit * d`.
pub(super) struct Fitted<const M: usize, const S: usize> {
    pub d: Half,
    pub scales: [u8; S],
    /// The book that each scale's words are from.
    pub books: [usize; S],
    pub words: [usize; M],
    /// The scales' sums of products, by `d`.
    sums: Sums,
}

/// Fits a block of vectors, those that share a scale with words of one book among `books`; scales are `0..=top`.
pub(super) fn fit<const N: usize, const M: usize, const S: usize>(
    books: &[&Words<N>],
    x: &[[f32; N]],
    weights: &[[f32; N]],
    (unit, top): (f32, u8),
) -> Fitted<M, S> {
    let against = |s: usize| -> Vec<Products> {
        let part = s * (M / S)..(s + 1) * (M / S);
        books.iter().map(|book| book.against(&x[part.clone()], &weights[part.clone()])).collect()
    };
    // A part's products are made twice: those of all parts would not stay in a cache.
    let wanted: [f32; S] = std::array::from_fn(|s| against(s).iter().map(Products::fit).fold(Fit::NONE, Fit::or).scale);
    let largest = wanted.iter().fold(0.0f32, |max, &scale| max.max(scale));
    let d = narrow(largest / (unit * f32::from(2 * top + 1)));
    let mut fitted = Fitted { d, scales: [0; S], books: [0; S], words: [0; M], sums: Sums::default() };
    for (s, &wanted) in wanted.iter().enumerate() {
        fitted.add(s, &against(s), wanted, (unit, top));
    }
    Fitted { d: fitted.solved(), ..fitted }
}

impl<const M: usize, const S: usize> Fitted<M, S> {
    /// Chooses scale, book and words for one part.
    fn add(&mut self, s: usize, books: &[Products], wanted: f32, (unit, top): (f32, u8)) {
        let choice = choose(books, wanted, top, widen(self.d) * unit);
        let odd = f32::from(2 * choice.scale + 1) * unit;
        self.sums.dot += odd * choice.sums.dot;
        self.sums.square += odd * odd * choice.sums.square;
        (self.scales[s], self.books[s]) = (choice.scale, choice.book);
        let mut words = self.words[s * (M / S)..].iter_mut();
        books[choice.book].sums(widen(self.d) * odd, |word| *words.next().expect("a place for each word") = word);
    }

    /// Least squares for the super-scale, words and scales given, if rounding to `f16` does not take more than it gives.
    fn solved(&self) -> Half {
        let gain = |d: Half| widen(d) * (2.0 * self.sums.dot - widen(d) * self.sums.square);
        let solved = narrow(self.sums.dot * inverse(self.sums.square));
        if gain(solved) > gain(self.d) && widen(solved) > 0.0 { solved } else { self.d }
    }
}

/// A scale and a book for vectors, and the sums of the words.
struct Choice {
    scale: u8,
    book: usize,
    sums: Sums,
    gain: f32,
}

/// Of the scales about the `wanted` one, odd multiples of `step`, the best one, with the best book.
fn choose(books: &[Products], wanted: f32, top: u8, step: f32) -> Choice {
    let middle = ((wanted * inverse(step) - 1.0) / 2.0).round_ties_even().clamp(0.0, f32::from(top)) as u8;
    let mut best = Choice { scale: middle, book: 0, sums: Sums::default(), gain: f32::NEG_INFINITY };
    for scale in middle.saturating_sub(NEAR)..=(middle + NEAR).min(top) {
        for (book, products) in books.iter().enumerate() {
            let exact = f32::from(2 * scale + 1) * step;
            let sums = products.sums(exact, |_| ());
            let gain = exact * (2.0 * sums.dot - exact * sums.square);
            if gain > best.gain {
                best = Choice { scale, book, sums, gain };
            }
        }
    }
    best
}

/// Eight numbers as signs, one bit each, and magnitudes. Where the number of signs has to be `even`, the number
/// that this costs least takes the wrong one and has a negative magnitude.
pub(super) fn signs(x: &[f32; 8], weights: &[f32; 8], even: bool) -> (u8, [f32; 8]) {
    let mut signs = (0..8).fold(0u8, |signs, i| signs | u8::from(x[i] < 0.0) << i);
    let mut magnitudes = x.map(f32::abs);
    if even && signs.count_ones() % 2 == 1 {
        let cost: [f32; 8] = std::array::from_fn(|i| weights[i] * magnitudes[i]);
        let smallest = (1..8).fold(0, |least, i| if cost[i] < cost[least] { i } else { least });
        signs ^= 1 << smallest;
        magnitudes[smallest] = -magnitudes[smallest];
    }
    (signs, magnitudes)
}

/// [`signs`] of every eight weights of a block.
pub(super) fn block_signs(x: &[f32], weights: &[f32], even: bool) -> ([u8; SUPER / 8], [[f32; 8]; SUPER / 8]) {
    let (x, weights) = (x.as_chunks().0, weights.as_chunks().0);
    let octets: [(u8, [f32; 8]); SUPER / 8] = std::array::from_fn(|i| signs(&x[i], &weights[i], even));
    (octets.map(|octet| octet.0), octets.map(|octet| octet.1))
}

/// What XXS formats store for 32 weights: four times seven signs and, on top, the scale.
pub(super) fn signs_and_scale(signs: &[u8], scale: u8) -> [u8; 4] {
    let signs = signs.iter().enumerate().fold(0, |all, (i, &signs)| all | u32::from(signs & 127) << (7 * i));
    (signs | u32::from(scale) << 28).to_le_bytes()
}

/// Eight signs of which seven are stored: their number is even.
pub(super) fn even_signs(seven: u32) -> u8 {
    let signs = seven as u8 & 127;
    signs | (signs.count_ones() as u8 & 1) << 7
}

/// Eight levels, those negated whose bit is set.
pub(super) fn negate(levels: [i8; 8], signs: u8) -> [i8; 8] {
    std::array::from_fn(|i| if signs >> i & 1 == 1 { -levels[i] } else { levels[i] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_times_a_scale_is_found() {
        let book = &super::super::codebook::IQ2_XS;
        let words = Words::of(book);
        for (i, scale) in [(0, 1.0f32), (17, 0.01), (511, 300.0), (202, 7.5)] {
            let x = book.vector(i).map(|v| f32::from(v) * scale);
            let products = words.against(&[x], &[[1.0; 8]]);
            let fit = products.fit();
            assert!((fit.scale / scale - 1.0).abs() < 1e-5 || i == 0, "word {i}: {} for {scale}", fit.scale);
            assert_eq!(nearest(&products.vectors[0], scale), i);
        }
    }

    #[test]
    fn what_does_not_count_does_not_choose_the_word() {
        let book = &super::super::codebook::IQ2_XS;
        let words = Words::of(book);
        let (mut x, mut weights) = (book.vector(300).map(f32::from), [1.0; 8]);
        (x[3], weights[3]) = (-40.0, 1e-9);
        let found = book.vector(nearest(&words.against(&[x], &[weights]).vectors[0], 1.0));
        assert!((0..8).all(|k| k == 3 || found[k] == book.vector(300)[k]), "{found:?}");
    }

    #[test]
    fn signs_come_back_and_are_even_at_the_least_cost() {
        let x = [1.0, -2.0, 3.0, -0.5, 5.0, -6.0, 7.0, 8.0];
        let (odd, magnitudes) = signs(&x, &[1.0; 8], false);
        assert_eq!((odd, magnitudes[3]), (0b0010_1010, 0.5));
        let (even, magnitudes) = signs(&x, &[1.0; 8], true);
        assert_eq!((even, magnitudes[3]), (0b0010_0010, -0.5));
        let mut weights = [1.0; 8];
        weights[0] = 0.1;
        assert_eq!(signs(&x, &weights, true).0, 0b0010_1011);
        assert_eq!(even_signs(u32::from(even & 127)), even);
        assert_eq!(negate([1; 8], 0b1000_0001), [-1, 1, 1, 1, 1, 1, 1, -1]);
    }
}
