use llama_core::Loader;
use llama_core::checkpoint::Checkpoint;
use llama_core::engine::{Engine, EngineOptions, Request, Score};
use llama_core::model::Llama;
use llama_core::sample::Sampling;
use llama_core::text::{ChatTemplate, Order, Scheme, SpacePrefix, Specials, TokenKind, Tokenizer, Vocab};
use llama_kernels::Cpu;
use llama_structured::Grammars;
use proptest::prelude::*;

use super::super::{AnswerScores, Blanks, Place as Told, TAGS, Tags, Tally, Thoughts};
use super::*;
use crate::served::Served;

const END: u32 = 2;
const OTHER_END: u32 = 3;
/// Token of byte 0.
const BYTES: u32 = 4;
/// Tokens that run across the ends of tags, among others.
const WORDS: [&str; 20] = [
    "<t",
    "think",
    ">\n",
    ">\n\n",
    ">{",
    "</",
    "></",
    "/think",
    "</think>yes",
    "</think>\n",
    "\n\n",
    "  ",
    "<think",
    "[TH",
    "]\n",
    "] y",
    "{\"a\": ",
    "yes",
    "\t\t\t\t\t\t\t\t\t\t",
    "\u{3000}",
];
const FORMS: [&str; 9] = [
    "yes|no",
    "\\{\"a\": [0-9]{1,3}\\}",
    " ?x+",
    "<b>[a-z<>/]{0,6}",
    "(<think>|</think>)?y",
    "(<thi|<thinking)(nk)?",
    "[\\s\\S]{0,4}",
    "\u{3000}?y",
    "(yes)?",
];

/// How the tags are in the vocabulary.
#[derive(Clone, Copy, Debug)]
enum Spelled {
    /// By several tokens.
    Out,
    As(TokenKind),
}

fn tokenizer(tags: &Tags, spelled: Spelled) -> Arc<Tokenizer> {
    let bytes = (0..256).map(|byte| (format!("<0x{byte:02X}>"), TokenKind::Byte));
    let words = WORDS.map(|word| (word.replace(' ', "\u{2581}"), TokenKind::Normal));
    let tags = match spelled {
        Spelled::Out => Vec::new(),
        Spelled::As(kind) => [tags.opening, tags.closing].map(|tag| (tag.into(), kind)).into(),
    };
    tokenizer_of(bytes.chain(words).chain(tags))
}

/// One of these tokens, behind those that steer.
fn tokenizer_of(more: impl Iterator<Item = (String, TokenKind)>) -> Arc<Tokenizer> {
    let steering = ["<unk>", "<s>", "</s>", "<end>"].map(|token| (token.into(), TokenKind::Control));
    let (tokens, mut kinds): (Vec<String>, Vec<TokenKind>) = steering.into_iter().chain(more).unzip();
    kinds[0] = TokenKind::Unknown;
    let order = Order::Scores((0..tokens.len()).map(|i| -(i as f32)).collect());
    let scheme = Scheme::SentencePiece { order, space_prefix: SpacePrefix::Never };
    let (bos, eos, unk) = (Some(1), Some(END), Some(0));
    let (end_tokens, strips) = (vec![], vec![]);
    let vocab =
        Vocab { tokens, kinds, scheme, bos, eos, unk, end_tokens, add_bos: true, add_eos: false, strips, infill: None };
    Arc::new(Tokenizer::new(vocab).unwrap())
}

/// A form before which a text may think.
struct Scene {
    tags: &'static Tags,
    tokenizer: Arc<Tokenizer>,
    form: Arc<dyn Grammar>,
    forethought: Forethought,
    begun: bool,
}

impl Scene {
    fn new(tags: &'static Tags, spelled: Spelled, regex: &str, begun: bool) -> Self {
        Scene::of(tags, tokenizer(tags, spelled), regex, begun)
    }

    fn of(tags: &'static Tags, tokenizer: Arc<Tokenizer>, regex: &str, begun: bool) -> Self {
        let ends = [END, OTHER_END];
        let form = Grammars::new(&tokenizer, &ends).unwrap().regex(regex).unwrap();
        // A model may have more tokens than its tokenizer.
        let sets = Arc::new(TokenSets::new(tags, tokenizer.clone(), tokenizer.vocab() + 40, &ends));
        let forethought = Forethought::before(form.clone(), sets, begun).unwrap();
        Scene { tags, tokenizer, form, forethought, begun }
    }

    fn allowed(&self, walk: &mut Box<dyn Constraint>) -> Allowed {
        let mut allowed = Allowed::none(self.tokenizer.vocab() + 40);
        walk.allow(&mut allowed).unwrap();
        allowed
    }

    fn text(&self, token: u32) -> &[u8] {
        self.forethought.sets.text(token)
    }

    /// Whether `text`, byte by byte, is of the form.
    fn is_formed(&self, text: &[u8]) -> bool {
        let mut walk = self.form.begin().unwrap();
        for &byte in text {
            let token = BYTES + u32::from(byte);
            if !self.allowed(&mut walk).allows(token) {
                return false;
            }
            walk.advance(token).unwrap();
        }
        let allowed = self.allowed(&mut walk);
        allowed.allows(END) && allowed.allows(OTHER_END)
    }

    fn thoughts(&self) -> Thoughts {
        let blanks = if self.forethought.keeps_blanks() { Blanks::Kept } else { Blanks::Formed };
        Thoughts::at(if self.begun { Told::Opened } else { Told::Before }, self.tags, blanks)
    }

    /// What is told of a text that came in these tokens, in pieces.
    fn told(&self, tokens: &[u32]) -> (String, String, bool) {
        let bytes: Vec<u8> = tokens.iter().flat_map(|&token| self.text(token)).copied().collect();
        let (mut thoughts, mut said) = (self.thoughts(), (String::new(), String::new()));
        let mut parts: Vec<_> =
            String::from_utf8_lossy(&bytes).chars().map(|c| thoughts.push(c.encode_utf8(&mut [0; 4]))).collect();
        let over = matches!(thoughts.place, Told::Closed | Told::Answer | Told::Before);
        parts.push(thoughts.end());
        for (thought, answer) in parts {
            said.0.push_str(&thought);
            said.1.push_str(&answer);
        }
        (said.0, said.1, over)
    }

    /// Whether `text` may come, token by token, each the longest there is if they are `long`, or else each a byte; and may end.
    fn takes(&self, text: &str, long: bool) -> bool {
        let mut walk = self.forethought.begin().unwrap();
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let longest = |tokens: std::ops::Range<u32>| {
                let fits = tokens.filter(|&token| !self.text(token).is_empty() && rest.starts_with(self.text(token)));
                fits.max_by_key(|&token| self.text(token).len())
            };
            let all = self.tokenizer.vocab() as u32;
            let token = longest(BYTES..if long { all } else { BYTES + 256 }).unwrap();
            if !self.allowed(&mut walk).allows(token) {
                return false;
            }
            walk.advance(token).unwrap();
            rest = &rest[self.text(token).len()..];
        }
        self.allowed(&mut walk).allows(END)
    }

    /// A text by `choices`: each takes one of the allowed tokens, of those that go on with `script` if there are any and it is even.
    fn walk(&self, script: &str, choices: &[u32]) -> (Vec<u32>, bool) {
        let (mut walk, mut tokens, mut rest) = (self.forethought.begin().unwrap(), Vec::new(), script.as_bytes());
        for &choice in choices {
            let allowed = self.allowed(&mut walk);
            let vocab = self.tokenizer.vocab() as u32;
            let (mut some, mut wanted) = (Vec::new(), Vec::new());
            for token in (0..vocab).filter(|&token| allowed.allows(token)) {
                some.push(token);
                if !self.text(token).is_empty() && rest.starts_with(self.text(token)) {
                    wanted.push(token);
                }
            }
            assert!(!some.is_empty() && allowed.count() == some.len(), "after {tokens:?}");
            let from = if choice % 16 > 0 && !wanted.is_empty() { &wanted } else { &some };
            let token = from[choice as usize / 16 % from.len()];
            if [END, OTHER_END].contains(&token) {
                return (tokens, true);
            }
            walk.advance(token).unwrap();
            rest = rest.strip_prefix(self.text(token)).unwrap_or_default();
            tokens.push(token);
        }
        (tokens, false)
    }
}

#[test]
fn thoughts_may_come_before_a_form() {
    for spelled in [Spelled::Out, Spelled::As(TokenKind::UserDefined), Spelled::As(TokenKind::Control)] {
        for (form, begun, text, fits) in [
            ("yes|no", false, "yes", true),
            ("yes|no", false, "<think>hm</think>yes", true),
            ("yes|no", false, "<think>\n\n</think>\n\nno", true),
            ("yes|no", false, "<think></think>no", true),
            ("yes|no", false, "<think>a < b </ c </thin <</think> \tyes", true),
            ("yes|no", false, "<think>yes", false),
            ("yes|no", false, "<think>hm</think>", false),
            ("yes|no", false, "<think>hm</think>maybe", false),
            ("yes|no", false, "<think>hm</think>         yes", false),
            ("yes|no", false, "<think>hm</think>yes ", false),
            ("yes|no", false, "<thin", false),
            ("yes|no", false, "<yes", false),
            ("yes|no", false, "\nyes", false),
            ("yes|no", false, "\n<think>hm</think>yes", false),
            ("yes|no", true, "hm</think>yes", true),
            ("yes|no", true, "</think>yes", true),
            ("yes|no", true, "yes", false),
            ("(yes)?", false, "", true),
            ("(yes)?", true, "", false),
            ("(yes)?", true, "</think>", true),
            (" ?x", false, "<think>hm</think> x", true),
            (" ?x", false, "<think>hm</think>\nx", false),
            ("<b>x", false, "<b>x", true),
            ("<b>x", false, "<think>hm</think><b>x", true),
            ("<b>x", false, "<t", false),
            ("<thinking", false, "<thinking", true),
            ("<think>x", false, "<think>x", false),
            ("<think>x", false, "<think>x</think><think>x", true),
        ] {
            let scene = Scene::new(&TAGS[0], spelled, form, begun);
            assert_eq!(scene.takes(text, false), fits, "{form} {begun} {text:?} {spelled:?}");
            if !fits || scene.takes(text, true) {
                continue;
            }
            // A token that says something behind the tag may not come, nor is a control token part of a form; others must be in
            // their stead.
            let behind = ["</think>yes", "</think> ", "</think><think>"];
            assert!(behind.iter().any(|tokens| text.contains(tokens)), "{form} {begun} {text:?} {spelled:?}");
        }
    }
}

/// A tag that no tokens spell is not begun, and a form that begins like one may come.
#[test]
fn tags_that_cannot_be_said_are_not_begun() {
    let words = ["<", "t", "<th", "h", "y", "think", "</think>"].into_iter();
    let tokenizer = tokenizer_of(words.map(|word| (word.into(), TokenKind::Normal)));
    let scene = Scene::of(&TAGS[0], tokenizer.clone(), "<thy|y", false);
    let said = |token: &u32| String::from_utf8_lossy(scene.text(*token)).into_owned();
    let mut walk = scene.forethought.begin().unwrap();
    for (token, may) in [("<th", "< <th y"), ("y", "y")] {
        let allowed = scene.allowed(&mut walk);
        let all = (BYTES..tokenizer.vocab() as u32).filter(|&token| allowed.allows(token));
        assert_eq!(all.map(|token| said(&token)).collect::<Vec<_>>().join(" "), may);
        walk.advance((BYTES..).find(|id| said(id) == token).unwrap()).unwrap();
    }
    assert!(scene.allowed(&mut walk).allows(END));
    let scene = Scene::of(&TAGS[0], tokenizer, "y", false);
    assert_eq!(scene.allowed(&mut scene.forethought.begin().unwrap()).count(), 1, "no tag is begun that could not end");
}

/// A text that is these tokens and no other.
#[derive(Clone, Debug)]
struct Script(std::collections::VecDeque<u32>);

impl Grammar for Script {
    fn begin(&self) -> Result<Box<dyn Constraint>> {
        Ok(Box::new(self.clone()))
    }
}

impl Constraint for Script {
    fn allow(&mut self, allowed: &mut Allowed) -> Result<()> {
        self.0.front().iter().for_each(|&&token| allowed.allow(token));
        Ok(())
    }

    fn advance(&mut self, _: u32) -> Result<()> {
        self.0.pop_front();
        Ok(())
    }
}

/// Tags that are control tokens, as Magistral's are, have a text where they are thoughts' and nowhere else.
#[test]
fn control_tokens_may_be_tags() {
    let tags = &TAGS[1];
    let tokenizer = tokenizer(tags, Spelled::As(TokenKind::Control));
    let checkpoint = Checkpoint::open(llama_examples::shipped_model()).unwrap();
    let options = EngineOptions { end_tokens: Some(vec![END]), ..EngineOptions::default() };
    let limits = options.limits(checkpoint.config()).unwrap();
    let cpu = Cpu::new(Default::default()).unwrap();
    let model = Llama::load(cpu, &checkpoint, limits, None, &mut |_| {}).unwrap();
    let mut engine = Engine::new(Box::new(model), Some(tokenizer.clone()), &options).unwrap();
    let [opening, closing] = [tags.opening, tags.closing].map(|tag| tokenizer.id(tag).unwrap());
    let words = |text: &str| tokenizer.encode(text, Specials::AsText).unwrap();
    let script = [vec![opening], words("hm1"), vec![closing], words("\n\nyes"), vec![END]].concat();
    for (template, told) in [("{{ '[/THINK]' }}", ("hm1", "yes")), ("{{ '[THINK]' }}", ("", "hm1\n\nyes"))] {
        let template = Some(ChatTemplate::new(template).unwrap());
        let served = Served::new(&engine, template, "m").unwrap();
        let mut request = Request::new(words("When?"));
        let prompt = request.prompt.clone();
        let mut thoughts = Thoughts::begin(&served, &prompt, &mut request).unwrap();
        let mut tally = Tally::new(tokenizer.clone(), thoughts.clone());
        request.grammar = Some(Arc::new(Script(script.clone().into())));
        let completion = engine.complete(request).unwrap();
        tally.push(&completion.tokens);
        let (thought, answer) = thoughts.push(&completion.text);
        assert_eq!((&*thought, &*answer), told);
        assert_eq!(tally.count() == 0, thought.is_empty());
        // A prompt may end with them, too.
        for (tag, place) in [(opening, Told::Opened), (closing, Told::Answer)] {
            let form = Some(served.grammars().unwrap().regex("yes").unwrap());
            let mut request = Request { grammar: form, ..Request::new([&prompt[..], &[tag]].concat()) };
            let prompt = request.prompt.clone();
            let thoughts = Thoughts::begin(&served, &prompt, &mut request).unwrap();
            assert_eq!(thoughts.place, if told.0.is_empty() { Told::Answer } else { place });
        }
    }
}

/// What came before a form, and it, are the same whatever else the engine does: drafts, company, and coming back after a preemption.
#[test]
fn drafts_and_preemption_change_nothing() {
    static STORY: Tags = Tags { opening: "Lily", closing: ". " };
    let engine = |drafts, cache_blocks| {
        let options =
            EngineOptions { drafts, cache_blocks, sequences: 4, prefix_cache: false, ..EngineOptions::default() };
        let loader = Loader::open(llama_examples::shipped_model()).unwrap().options(options);
        loader.load(Cpu::new(Default::default()).unwrap()).unwrap()
    };
    let (mut alone, mut drafting, mut crowded) = (engine(0, None), engine(4, None), engine(4, Some(9)));
    let tokenizer = alone.tokenizer().unwrap().clone();
    let ends = alone.end_tokens().to_vec();
    let form = Grammars::new(&tokenizer, &ends).unwrap().regex("((red|green) ){4,9}end").unwrap();
    let sets = Arc::new(TokenSets::new(&STORY, tokenizer.clone(), alone.model().config().vocab, &ends));
    let forethought = Arc::new(Forethought::before(form, sets, true).unwrap());
    let prompt = alone.encode("Once upon a time", Specials::AsText).unwrap();
    let request = |seed| {
        let sampling = Sampling { temperature: 1.0, seed, ..Sampling::greedy() };
        Request { sampling, grammar: Some(forethought.clone()), max_tokens: Some(120), ..Request::new(prompt.clone()) }
    };
    let want: Vec<_> = (0..8).map(|seed| alone.complete(request(seed)).unwrap()).collect();
    let formed = want.iter().filter(|text| text.text.ends_with(" end") && text.text.contains(". ")).count();
    assert!(formed > 3, "{want:?}");
    for engine in [&mut drafting, &mut crowded] {
        let ids: Vec<_> = (0..8).map(|seed| engine.submit(request(seed)).unwrap()).collect();
        let mut tokens = vec![Vec::new(); ids.len()];
        while !engine.is_idle() {
            for event in engine.step().unwrap() {
                tokens[ids.iter().position(|&id| id == event.id).unwrap()].extend(event.token);
            }
        }
        assert_eq!(tokens, want.iter().map(|text| text.tokens.clone()).collect::<Vec<_>>());
    }
    assert!(drafting.stats().accepted > 0 && crowded.stats().preemptions > 0, "{:?}", crowded.stats());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    /// Whatever a text is, what is told as its answer is of the form, and never is there nothing that may come.
    #[test]
    fn answers_are_of_the_form(
        (tags, form, begun) in (0..TAGS.len(), 0..FORMS.len(), any::<bool>()),
        spelled in prop::sample::select(vec![
            Spelled::Out, Spelled::As(TokenKind::UserDefined), Spelled::As(TokenKind::Control),
        ]),
        opens in any::<bool>(),
        script in "( |\n|\t|hm|<|/|>|é){0,5}",
        blanks in "(|\n\n| |\n|   )",
        answer in prop::sample::select(vec!["yes", "{\"a\": 1}", " x", "<b>a", "<think>y", "<thinking", "\u{3000}y", ""]),
        choices in prop::collection::vec(any::<u32>(), 60),
    ) {
        let tags = &TAGS[tags];
        let scene = Scene::new(tags, spelled, FORMS[form], begun);
        let opening = if opens && !begun { tags.opening } else { "" };
        let closing = if opens || begun { tags.closing } else { "" };
        let (tokens, ended) = scene.walk(&format!("{opening}{script}{closing}{blanks}{answer}"), &choices);
        let (thoughts, answer, over) = scene.told(&tokens);
        if ended {
            prop_assert!(over && scene.is_formed(answer.as_bytes()), "{:?} after {:?}", answer, thoughts);
        }
        // As many tokens were thoughts as begin before the closing tag has ended.
        let mut tally = Tally::new(scene.tokenizer.clone(), scene.thoughts());
        tokens.chunks(3).for_each(|tokens| tally.push(tokens));
        let bytes: Vec<u8> = tokens.iter().flat_map(|&token| scene.text(token)).copied().collect();
        let thought = begun || bytes.starts_with(tags.opening.as_bytes());
        let closed = bytes.windows(tags.closing.len()).position(|part| part == tags.closing.as_bytes());
        let end = closed.map_or(usize::MAX, |at| at + tags.closing.len());
        let mut at = 0;
        let count = tokens.iter().filter(|&&token| {
            let begins = at;
            at += scene.text(token).len();
            begins < end
        });
        let count = count.count();
        prop_assert_eq!(tally.count(), if thought { count } else { 0 });
    }
}

/// A model may have more tokens than its tokenizer.
#[test]
fn a_token_that_pads_a_vocabulary_takes_no_score_away() {
    let tokenizer = tokenizer(&TAGS[0], Spelled::Out);
    let tokens = [BYTES + 65, tokenizer.vocab() as u32 + 5, BYTES + 66];
    let scores = tokens.map(|token| Score { token, logprob: -1.0, top: Vec::new() });
    let kept = AnswerScores::new(Thoughts::none()).push(&tokenizer, &scores, true);
    assert_eq!(kept.iter().map(|score| score.token).collect::<Vec<_>>(), tokens);
}
