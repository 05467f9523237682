//! The worker threads of one backend: fork and join in well under a microsecond while a step runs, asleep in between.
//!
//! A team of `count` threads is the caller and `count - 1` workers that live as long as the team. A parallel region is
//! published through one atomic word, its *state*: a generation number, whether the region is open, and how many
//! workers are inside. A slow thread does fewer of its tasks (`tasks`). The caller works too, closes
//! the region when there are none left, and waits only for the workers that are inside: one that the system has not
//! scheduled in time never joins and is never waited for, which is what keeps an oversubscribed machine running.
//!
//! Between regions of a step ([`Threads::step`]) workers spin for some microseconds, then yield, then sleep; outside a
//! step they sleep at once. A region allocates nothing, and neither does a step. A panic in a task stops the region,
//! reaches the caller once every worker has left, and leaves the team usable. A region inside a region runs on the
//! thread that asked for it.
//!
//! The workers are those of a rayon pool, which starts, names and ends them. They run one job of it, a broadcast that
//! lasts as long as the team: regions in rayon's own terms were measured first and cost 2 us each (14 us for a
//! broadcast, which also allocates), and 80 regions a token at 60 tokens a second make that 1 to 7 % of the time.

mod tasks;

use std::any::Any;
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use llama_core::{Error, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};

use tasks::Run;
pub use tasks::Tasks;

/// More threads than this are refused: the number is a mistake.
pub const MAX_THREADS: usize = 1024;

/// Polls before a waiting thread yields: 20 to 60 us, whatever the machine's `pause` takes.
const SPINS: u32 = 1000;
/// Times a waiting thread yields before it sleeps.
const YIELDS: u32 = 32;

/// A fixed team of threads; the caller is one of them.
pub struct Threads {
    shared: Arc<Shared>,
    /// Where the workers live; none if the caller is alone. It is kept only to be dropped.
    pool: Option<ThreadPool>,
    count: usize,
}

impl Threads {
    /// A team of `count` threads, which must be in `1 ..= MAX_THREADS`; fails if the system refuses to start them.
    pub fn new(count: usize) -> Result<Self> {
        // Where a machine word is short, rayon would start fewer threads than asked for.
        let most = MAX_THREADS.min(rayon::max_num_threads());
        if count == 0 || count > most {
            return Err(Error::parameter("threads", count, format!("from 1 to {most}")));
        }
        // Spinning on a processor that another member of the team needs only delays it.
        let spins = if count <= available() { SPINS } else { 0 };
        let shared = Arc::new(Shared::new(count, spins));
        let pool = if count > 1 { Some(start(&shared, count - 1)?) } else { None };
        Ok(Threads { shared, pool, count })
    }

    /// Threads in the team.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Calls `task(i)` for every `i` in `0 .. tasks`, each once, on any thread, and returns when all are done.
    pub fn for_each(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        self.for_each_on(tasks, &|_, i| task(i));
    }

    /// As [`Threads::for_each`], calling `task(thread, i)`: `thread < count`, and no two calls that run at the same time
    /// get the same, so that it may index scratch memory.
    pub fn for_each_on(&self, tasks: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        self.share(tasks, &|thread, tasks| tasks.for_each(|i| task(thread, i)));
    }

    /// Calls `work(thread, tasks)` once on each thread that comes in time, the caller's among them. What they take from
    /// `tasks` they have taken together: each of `0 .. count` once, mostly in order. Returns when all have returned.
    pub fn share(&self, count: usize, work: &(dyn Fn(usize, Tasks<'_>) + Sync)) {
        if self.pool.is_none() || count <= 1 || self.shared.busy.swap(true, SeqCst) {
            let alone = [Run::default()];
            tasks::cut(count, &alone);
            return work(0, Tasks::of(&alone, 0));
        }
        let _busy = OnDrop(|| self.shared.busy.store(false, SeqCst));
        self.shared.run(count, work);
    }

    /// Cuts `slice` into chunks of `chunk` elements (the last may be shorter) and calls `task(i, chunk i)` in parallel.
    pub fn for_chunks<T: Send>(&self, slice: &mut [T], chunk: usize, task: impl Fn(usize, &mut [T]) + Sync) {
        let len = slice.len();
        let slice = Disjoint::new(slice);
        self.for_each(len.div_ceil(chunk), &|i| {
            let range = i * chunk..len.min((i + 1) * chunk);
            // SAFETY: chunks of different `i` do not overlap, and each `i` is called once.
            task(i, unsafe { slice.part(range) });
        });
    }

    /// Runs one step: inside `ops` the team stays awake between calls of [`Threads::for_each`].
    pub fn step<R>(&self, ops: impl FnOnce() -> R) -> R {
        if self.pool.is_none() {
            return ops();
        }
        if self.shared.steps.fetch_update(SeqCst, SeqCst, |n| is_between_steps(n).then_some(n + 1)).is_err() {
            return ops();
        }
        let _end = OnDrop(|| {
            self.shared.steps.fetch_add(1, SeqCst);
        });
        self.shared.work.ring();
        ops()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.quit.store(true, SeqCst);
        self.shared.work.ring();
        drop(self.pool.take());
        // The pool only tells its threads to end. The team waits until they do.
        self.shared.left.wait(0, || self.shared.up.load(SeqCst) == 0);
    }
}

/// Starts a pool of `workers` threads and returns once each is in [`Shared::serve`], so that what starting a thread
/// allocates is over before the first step.
fn start(shared: &Arc<Shared>, workers: usize) -> Result<ThreadPool> {
    let leaving = Arc::clone(shared);
    let pool = ThreadPoolBuilder::new()
        .num_threads(workers)
        .thread_name(|index| format!("llama-{}", index + 1))
        .exit_handler(move |_| leaving.leave())
        .build()
        .map_err(|e| Error::parameter("threads", workers + 1, e.to_string()))?;
    let serving = Arc::clone(shared);
    pool.spawn_broadcast(move |worker| serving.serve(worker.index() + 1));
    shared.left.wait(0, || shared.up.load(SeqCst) == workers);
    Ok(pool)
}

/// Processors this process may use, as its affinity and control group allow.
pub fn available() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn is_between_steps(steps: u64) -> bool {
    steps.is_multiple_of(2)
}

/// What the threads of a region do.
type Work = dyn Fn(usize, Tasks<'_>) + Sync;

/// A region's work, its borrow's lifetime erased.
#[derive(Clone, Copy)]
struct Job {
    work: *const Work,
}

type Panic = Box<dyn Any + Send>;

/// Workers inside the region.
const INSIDE: u64 = 0xFFFF;
/// The region takes workers.
const OPEN: u64 = 1 << 16;
/// One generation.
const GENERATION: u64 = 1 << 17;

/// A cache line (two: they are fetched in pairs) of its own, so that nothing else slows the state's readers.
#[repr(align(128))]
struct Padded<T>(T);

/// What the caller and the workers share.
struct Shared {
    /// Generation, [`OPEN`], workers [`INSIDE`].
    state: Padded<AtomicU64>,
    /// The tasks that are left.
    runs: Box<[Run]>,
    /// Written by the caller while the region is closed and empty, read by workers inside.
    job: UnsafeCell<Job>,
    /// The first panic of a worker in this region.
    panic: Mutex<Option<Panic>>,
    /// A region is running: another one must not be published.
    busy: AtomicBool,
    /// Steps begun plus steps ended: odd while one is running, when workers wait awake.
    steps: AtomicU64,
    /// The team is being dropped.
    quit: AtomicBool,
    /// Workers that serve, or did and have not ended yet.
    up: AtomicUsize,
    /// Workers wait here for a region, a step or the end.
    work: Bell,
    /// The caller waits here for the last worker to leave, at first for all to be up, and in the end for none to be.
    left: Bell,
    spins: u32,
}

// SAFETY: every field but `job` is `Sync` by itself. `job` is written only by the holder of `busy` while the region is
// closed and nobody is inside, and read only by workers that have entered since (`Shared::enter`), through atomics that
// order the two. The pointer in it leads to a `Sync` closure that outlives the region (`Shared::run`).
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is only followed inside a region, wherever `Shared` has been moved to.
unsafe impl Send for Shared {}

impl Shared {
    fn new(threads: usize, spins: u32) -> Self {
        Shared {
            state: Padded(AtomicU64::new(0)),
            runs: (0..threads).map(|_| Run::default()).collect(),
            job: UnsafeCell::new(Job { work: &|_, _| () }),
            panic: Mutex::new(None),
            busy: AtomicBool::new(false),
            steps: AtomicU64::new(0),
            quit: AtomicBool::new(false),
            up: AtomicUsize::new(0),
            work: Bell::default(),
            left: Bell::default(),
            spins,
        }
    }

    /// Runs a region. The caller holds `busy`.
    fn run(&self, count: usize, work: &(dyn Fn(usize, Tasks<'_>) + Sync)) {
        // SAFETY: only the lifetime changes. The pointer is followed by workers inside the region alone, and this
        // function neither returns nor unwinds before the region is closed and the last of them has left.
        let work: *const Work = unsafe { std::mem::transmute(work) };
        let job = Job { work };
        // SAFETY: the previous region is closed and empty, so no worker reads `job`; `busy` keeps other writers out.
        unsafe { *self.job.get() = job };
        tasks::cut(count, &self.runs);
        self.state.0.fetch_add(GENERATION | OPEN, SeqCst);
        self.work.ring();

        let mine = self.take_part(0, job);
        self.state.0.fetch_and(!OPEN, SeqCst);
        self.left.wait(self.spins, || self.state.0.load(SeqCst) & INSIDE == 0);
        let theirs = lock(&self.panic).take();
        if let Some(panic) = mine.err().or(theirs) {
            resume_unwind(panic);
        }
    }

    /// Takes part. A panic leaves no tasks for the others.
    fn take_part(&self, thread: usize, job: Job) -> Result<(), Panic> {
        // SAFETY: the caller is the one that published the job, or is inside its region; see `run`.
        let work = unsafe { &*job.work };
        catch_unwind(AssertUnwindSafe(|| work(thread, Tasks::of(&self.runs, thread))))
            .inspect_err(|_| tasks::clear(&self.runs))
    }

    /// A worker's life.
    fn serve(&self, thread: usize) {
        self.up.fetch_add(1, SeqCst);
        self.left.ring();
        let mut seen = 0;
        loop {
            let steps = self.steps.load(SeqCst);
            let (spins, begun) = if is_between_steps(steps) { (0, steps + 1) } else { (self.spins, steps + 2) };
            self.work.wait(spins, || self.has_news(seen) || self.steps.load(SeqCst) == begun);
            if self.quit.load(SeqCst) {
                return;
            }
            if let Some((generation, job)) = self.enter(seen) {
                seen = generation;
                if let Err(panic) = self.take_part(thread, job) {
                    lock(&self.panic).get_or_insert(panic);
                }
                if self.state.0.fetch_sub(1, SeqCst) & INSIDE == 1 {
                    self.left.ring();
                }
            }
        }
    }

    /// A worker's last word.
    fn leave(&self) {
        self.up.fetch_sub(1, SeqCst);
        self.left.ring();
    }

    fn has_news(&self, seen: u64) -> bool {
        let state = self.state.0.load(SeqCst);
        self.quit.load(SeqCst) || state & OPEN != 0 && state / GENERATION != seen
    }

    /// Joins the region if it is open and not the one seen last.
    fn enter(&self, seen: u64) -> Option<(u64, Job)> {
        let join = |state| (state & OPEN != 0 && state / GENERATION != seen).then_some(state + 1);
        let state = self.state.0.fetch_update(SeqCst, SeqCst, join).ok()?;
        // SAFETY: this worker is inside, so the caller does not write `job` until it has left.
        let job = unsafe { *self.job.get() };
        Some((state / GENERATION, job))
    }
}

/// Waiting for a condition over atomics: spinning, then yielding, then asleep.
#[derive(Default)]
struct Bell {
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    bell: Condvar,
}

impl Bell {
    /// Returns once `ready()`. Whoever makes it so must [`Bell::ring`] afterwards.
    fn wait(&self, spins: u32, ready: impl Fn() -> bool) {
        for _ in 0..spins {
            if ready() {
                return;
            }
            std::hint::spin_loop();
        }
        // A thread that may not spin (too few processors, or no step) still yields before the costlier sleep.
        for _ in 0..YIELDS {
            if ready() {
                return;
            }
            std::thread::yield_now();
        }
        self.sleep(ready);
    }

    /// The sleeper counts itself and then looks again; the ringer changes the world and then looks for sleepers. In the
    /// single order of these operations one of the two sees the other.
    fn sleep(&self, ready: impl Fn() -> bool) {
        let mut guard = lock(&self.lock);
        self.sleepers.fetch_add(1, SeqCst);
        while !ready() {
            guard = self.bell.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, SeqCst);
    }

    fn ring(&self) {
        if self.sleepers.load(SeqCst) > 0 {
            drop(lock(&self.lock));
            self.bell.notify_all();
        }
    }
}

/// Nothing panics while it holds one of these locks, so poison means nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs something at the end of a scope, panic or not.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A mutable slice that the tasks of one [`Threads::for_each`] write in disjoint parts.
pub struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Disjoint` only gives out parts through `part`, whose caller promises that no two overlap; so sharing it is
// sharing nothing but an address. Moving parts to other threads needs `T: Send`.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Takes the slice over for `'a`.
    pub fn new(slice: &'a mut [T]) -> Self {
        Disjoint { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// The elements `range`.
    ///
    /// # Panics
    /// If the range is out of bounds.
    ///
    /// # Safety
    /// No other part that overlaps `range` is alive.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part {range:?} of {}", self.len);
        // SAFETY: in bounds by the assertion, exclusive by the caller's promise, borrowed for no longer than 'a.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a region and checks that every task ran once, and that no thread index was used twice at a time.
    fn region(threads: &Threads, tasks: usize) {
        let ran: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        let inside: Vec<AtomicUsize> = (0..threads.count()).map(|_| AtomicUsize::new(0)).collect();
        threads.for_each_on(tasks, &|thread, i| {
            assert_eq!(inside[thread].fetch_add(1, SeqCst), 0, "thread {thread} twice");
            ran[i].fetch_add(1, SeqCst);
            inside[thread].fetch_sub(1, SeqCst);
        });
        assert!(ran.iter().all(|ran| ran.load(SeqCst) == 1), "{tasks} tasks");
    }

    #[test]
    fn every_task_runs_once_in_many_regions() {
        for count in [1, 2, 3, 8] {
            let threads = Threads::new(count).expect("threads");
            assert_eq!(threads.count(), count);
            threads.step(|| (0..2000).for_each(|i| region(&threads, i % 40)));
            (0..100).for_each(|i| region(&threads, i));
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_survives() {
        let threads = Threads::new(3).expect("threads");
        for bad in 0..60 {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                threads.step(|| threads.for_each(60, &|i| assert!(i != bad, "task {bad}")));
            }));
            let message = *caught.expect_err("must panic").downcast::<String>().expect("a message");
            assert_eq!(message, format!("task {bad}"));
            region(&threads, 50);
        }
    }

    #[test]
    fn regions_and_steps_may_nest() {
        let threads = Threads::new(3).expect("threads");
        let sum = AtomicUsize::new(0);
        threads.step(|| {
            threads.for_each(10, &|i| {
                threads.step(|| {
                    threads.for_each(10, &|j| {
                        sum.fetch_add(i * j, SeqCst);
                    });
                });
            });
        });
        assert_eq!(sum.into_inner(), 45 * 45);
    }

    #[test]
    fn a_team_may_be_asked_from_several_threads() {
        let threads = Threads::new(2).expect("threads");
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..300).for_each(|i| region(&threads, i % 7)));
            }
        });
    }

    #[test]
    fn absurd_counts_are_refused() {
        assert!(matches!(Threads::new(0), Err(Error::Parameter { name: "threads", .. })));
        assert!(matches!(Threads::new(MAX_THREADS + 1), Err(Error::Parameter { name: "threads", .. })));
    }

    #[test]
    fn chunks_cover_the_slice() {
        let threads = Threads::new(2).expect("threads");
        let mut x = vec![0; 103];
        threads.for_chunks(&mut x, 10, |i, chunk| chunk.iter_mut().enumerate().for_each(|(j, x)| *x = i * 10 + j));
        assert!(x.iter().enumerate().all(|(i, &x)| i == x));
    }
}
