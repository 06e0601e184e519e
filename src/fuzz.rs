//! Runs the fuzz targets: the code that reads what others write gets inputs that began as correct ones and were changed
//! at random.
//!
//! A target is a test in a module `fuzz`, beside the code that it is about; it calls [`run`]. It fails if an execution
//! panics, also in a task of its runtime, if an execution takes longer than [`HANG`], or if the process grows by more
//! than [`GROWTH`]. The input is saved in `target/fuzz/` then.
//!
//! | variable | content |
//! |---|---|
//! | `SKEP_FUZZ_SECONDS` | time for each target, 1 by default |
//! | `SKEP_FUZZ_SEED` | the seed of a run to repeat; by default a fixed one for up to 10 s, and else a new one |
//! | `SKEP_FUZZ_INPUT` | a file with the one input to execute |
//!
//! There is no measurement of the executed code. Instead, a target returns the kind of its result, such as the names of
//! the decisions, and an input with a new kind becomes the start of others.

mod mutate;
mod tests;

use std::cell::Cell;
use std::collections::HashSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Write as _, stderr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, Once};
use std::thread;
use std::time::{Duration, Instant};

/// Largest input, in bytes: larger than any row that is decoded, and than any head of a request that is read.
const LONGEST: usize = 64 << 10;
/// Time limit of one execution. The slowest ones make a thousand requests, on a machine that is busy with other tests.
const HANG: Duration = Duration::from_secs(30);
/// Limit of the process's growth, in bytes. The kept inputs are a tenth of it.
const GROWTH: u64 = 64 << 20;
/// Maximum number and size of the inputs that are kept because their result was new, and of the known kinds.
const KEPT: usize = 2_000;
const LONGEST_KEPT: usize = 2 << 10;
const KINDS: usize = 100_000;
/// Number of characters of an input that a failure shows. The file has all of it.
const SHOWN: usize = 1_000;
/// Interval between two looks at time and memory.
const TICK: Duration = Duration::from_millis(200);
/// Interval between two reports of the progress, and the longest run without any.
const REPORT: Duration = Duration::from_secs(10);
/// The seed of short runs: they must have the same result for the same source.
const FIXED_SEED: u64 = 1;

/// The name of a target, and what its inputs are made of.
pub struct Target<'a> {
    pub name: &'static str,
    /// Correct inputs.
    pub corpus: Vec<Vec<u8>>,
    /// Words of this format, in addition to those of every format.
    pub words: &'a [&'a str],
}

/// Executes the target with changed inputs for the set time. `execute` returns the kind of the result.
///
/// # Panics
/// On a failure; one of the watchdog ends the process.
pub fn run<Kind: Hash>(target: &Target<'_>, mut execute: impl FnMut(&[u8]) -> Kind) {
    if let Some(path) = std::env::var_os("SKEP_FUZZ_INPUT") {
        let input = fs::read(path).expect("SKEP_FUZZ_INPUT names a file");
        count_panics();
        Run::new(target.name, HANG, 0).execute(&input, &mut execute);
        return;
    }
    let number = |name| std::env::var(name).ok().map(|it| it.parse().expect("a number"));
    let seconds = number("SKEP_FUZZ_SECONDS");
    let lasts = Duration::from_secs(seconds.unwrap_or(1));
    let seed = number("SKEP_FUZZ_SEED");
    let seed = seed.unwrap_or_else(|| if lasts > REPORT { fastrand::u64(..) } else { FIXED_SEED });
    let summary = run_for(target, lasts, seed, execute);
    report(&summary);
    if seconds.is_some() {
        save(&format!("{}.done", target.name), format!("{summary}\n").as_bytes());
    }
}

/// Returns the summary.
fn run_for<Kind: Hash>(
    target: &Target<'_>,
    lasts: Duration,
    seed: u64,
    mut execute: impl FnMut(&[u8]) -> Kind,
) -> String {
    count_panics();
    let run = Run::new(target.name, lasts, seed);
    let kinds = thread::scope(|scope| {
        let watchdog = scope.spawn(|| run.watch());
        let kinds = catch_unwind(AssertUnwindSafe(|| run.feed(target, seed, &mut execute)));
        run.is_over.store(true, Ordering::Relaxed);
        watchdog.thread().unpark();
        IS_WATCHED.set(false);
        kinds
    });
    let kinds = kinds.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    format!("{}, {kinds} kinds of results, no failure", run.progress())
}

/// The state that the watchdog sees.
struct Run {
    name: &'static str,
    seed: u64,
    lasts: Duration,
    began: Instant,
    executions: AtomicU64,
    /// Resident size after the correct inputs, in bytes; 0 before.
    resident: AtomicU64,
    is_over: AtomicBool,
    /// The present input, and when its execution began.
    current: Mutex<(Vec<u8>, Instant)>,
}

impl Run {
    fn new(name: &'static str, lasts: Duration, seed: u64) -> Self {
        let began = Instant::now();
        Self {
            name,
            seed,
            lasts,
            began,
            executions: AtomicU64::new(0),
            resident: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            current: Mutex::new((Vec::new(), began)),
        }
    }

    /// Executes the correct inputs and then changed ones. Returns the number of kinds of results.
    fn feed<Kind: Hash>(
        &self,
        target: &Target<'_>,
        seed: u64,
        execute: &mut impl FnMut(&[u8]) -> Kind,
    ) -> usize {
        IS_WATCHED.set(true);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut corpus = target.corpus.clone();
        let mut kinds = HashSet::new();
        let correct = corpus.len();
        for n in 0.. {
            let is_correct = n < correct;
            if !is_correct && self.began.elapsed() >= self.lasts {
                break;
            }
            let input = match corpus.get(n).filter(|_| is_correct) {
                Some(input) => input.clone(),
                None => mutate::changed(&mut rng, &corpus, correct, target.words),
            };
            let kind = self.execute(&input, execute);
            let is_new = kinds.len() < KINDS && kinds.insert(kind);
            if is_new && !is_correct && input.len() <= LONGEST_KEPT && corpus.len() < KEPT + correct
            {
                corpus.push(input);
            }
            if n + 1 == correct {
                // Nextest runs each test in a process of its own. Elsewhere the growth is that of all tests.
                if std::env::var_os("NEXTEST").is_some() {
                    self.resident.store(resident(), Ordering::Relaxed);
                }
            }
        }
        if let Some(why) = self.trouble(Instant::now(), resident()) {
            panic!("{}", self.failure(&why));
        }
        kinds.len()
    }

    fn execute<Kind: Hash>(&self, input: &[u8], execute: &mut impl FnMut(&[u8]) -> Kind) -> u64 {
        let mut current = self.current();
        current.0.clear();
        current.0.extend_from_slice(input);
        current.1 = Instant::now();
        drop(current);
        self.executions.fetch_add(1, Ordering::Relaxed);
        PANICS.set(0);
        let kind = catch_unwind(AssertUnwindSafe(|| hash(&execute(input))));
        match (kind, PANICS.get()) {
            (Ok(kind), 0) => kind,
            _ => panic!("{}", self.failure("it panics")),
        }
    }

    fn current(&self) -> MutexGuard<'_, (Vec<u8>, Instant)> {
        self.current.lock().expect("no execution holds it")
    }

    /// Ends the process if an execution hangs or the process grows: the thread that executes cannot be ended.
    fn watch(&self) {
        let mut reported = Instant::now();
        while !self.is_over.load(Ordering::Relaxed) {
            thread::park_timeout(TICK);
            if let Some(why) = self.trouble(Instant::now(), resident()) {
                report(&self.failure(&why));
                std::process::exit(1);
            }
            if reported.elapsed() >= REPORT {
                reported = Instant::now();
                let left = self.lasts.saturating_sub(self.began.elapsed());
                report(&format!("{}, {} s left", self.progress(), left.as_secs()));
            }
        }
    }

    fn trouble(&self, now: Instant, resident: u64) -> Option<String> {
        let took = now.saturating_duration_since(self.current().1);
        if took > HANG && !self.is_over.load(Ordering::Relaxed) {
            return Some(format!("an execution takes longer than {} s", HANG.as_secs()));
        }
        let before = self.resident.load(Ordering::Relaxed);
        let grown = resident.saturating_sub(before);
        (before > 0 && grown > GROWTH)
            .then(|| format!("the process has grown by {} MiB", grown >> 20))
    }

    /// Saves the present input. Returns the description of the failure.
    fn failure(&self, why: &str) -> String {
        let input = self.current().0.clone();
        let path = save(&format!("{}-{:016x}", self.name, hash(&input)), &input);
        let shown: String = input.escape_ascii().to_string().chars().take(SHOWN).collect();
        format!(
            "fuzz target {}: {why}, at execution {} of seed {}\ninput ({} bytes, saved as {}):\n{shown}",
            self.name,
            self.executions.load(Ordering::Relaxed),
            self.seed,
            input.len(),
            path.display(),
        )
    }

    fn progress(&self) -> String {
        let executions = self.executions.load(Ordering::Relaxed);
        let took = self.began.elapsed();
        let rate = executions as f64 / took.as_secs_f64();
        let (name, seed) = (self.name, self.seed);
        let seconds = took.as_secs();
        let grown = resident().saturating_sub(self.resident.load(Ordering::Relaxed)) >> 20;
        format!(
            "fuzz {name}: seed {seed}, {executions} executions in {seconds} s ({rate:.0}/s), {grown} MiB grown"
        )
    }
}

thread_local! {
    /// Panics on this thread since the execution began. A runtime catches those of its tasks, but the shipped skep ends.
    static PANICS: Cell<u32> = const { Cell::new(0) };
    /// Whether this thread executes under a watchdog. A backtrace would take more memory than any input.
    static IS_WATCHED: Cell<bool> = const { Cell::new(false) };
}

fn count_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            if IS_WATCHED.get() { report(&info.to_string()) } else { before(info) }
        }));
    });
}

/// Returns the source of the choices that an input does not contain, the same for the same input.
pub fn choices(input: &[u8]) -> fastrand::Rng {
    fastrand::Rng::with_seed(hash(&input))
}

/// Returns the kind of a message: without its numbers and quoted parts, which would make every message a kind.
pub fn kind(message: &str) -> String {
    let parts = message.split(['"', '\'', '`']).step_by(2);
    let letters = parts.flat_map(str::chars).filter(|c| c.is_ascii_alphabetic() || *c == ' ');
    letters.take(160).collect()
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Returns the resident size of this process, in bytes; 0 if the system does not report it.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}

/// Writes a file in `target/fuzz/`, as well as possible. Returns its path.
fn save(name: &str, content: &[u8]) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
    let path = dir.join(name);
    let saved = fs::create_dir_all(&dir).and_then(|()| fs::write(&path, content));
    saved.unwrap_or_else(|error| report(&format!("cannot write {}: {error}", path.display())));
    path
}

/// Writes to standard error even where the test's output is captured: the watchdog ends the process.
fn report(line: &str) {
    let _ = writeln!(stderr(), "{line}");
}
