//! The fuzz targets as plain tests: each over its kept corpus (`fuzz/corpus/TARGET/`), then over seeded
//! mutations of it. What a longer search has found becomes a file of the corpus, and is tried here for ever.

use std::path::Path;

use fastrand::Rng;

#[test]
fn body() {
    corpus_and_mutations("body", adit::fuzz::body);
}

#[test]
fn proxy_header() {
    corpus_and_mutations("proxy_header", adit::fuzz::proxy_header);
}

#[test]
fn request_head() {
    corpus_and_mutations("request_head", adit::fuzz::request_head);
}

#[test]
fn response_head() {
    corpus_and_mutations("response_head", adit::fuzz::response_head);
}

/// Enough to meet each single-byte mistake in a small corpus, and a second or two unoptimized.
const MUTATIONS: usize = 20_000;

/// Longer ones add nothing that a few such do not show.
const INPUT_BYTES_MAX: usize = 8 * 1024;

fn corpus_and_mutations(target: &str, fuzz: fn(&[u8])) {
    let corpus = corpus(target);
    for input in &corpus {
        run(target, fuzz, input);
    }
    let mut dice = Rng::with_seed(20_000);
    for _ in 0..MUTATIONS {
        let mut input = corpus[dice.usize(..corpus.len())].clone();
        for _ in 0..dice.usize(1..=4) {
            mutate(&mut input, &corpus, &mut dice);
        }
        run(target, fuzz, &input);
    }
}

/// The files of a corpus, in the order of their names, so that a seed means the same everywhere.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Tells of the input where the target panics; the harness prints it with the panic itself.
fn run(target: &str, fuzz: fn(&[u8]), input: &[u8]) {
    struct Tell<'a>(&'a str, &'a [u8]);
    impl Drop for Tell<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("{} fails for b\"{}\"", self.0, self.1.escape_ascii());
            }
        }
    }
    let _tell = Tell(target, input);
    fuzz(input);
}

/// One small change of the kinds that break parsers: bytes changed, gone, said twice, or out of another
/// input.
fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], dice: &mut Rng) {
    const LIKELY: &[u8] = b"\r\n\t :;,=\"\\%/.0519aAfFxX\0\x01\x10\x21\x7f\x80\xff";
    let at = dice.usize(..=input.len());
    let run = at..input.len().min(at + dice.usize(1..=16));
    match dice.usize(..8) {
        0 if at < input.len() => input[at] ^= 1 << dice.u8(..8),
        1 if at < input.len() => input[at] = dice.u8(..),
        2 if at < input.len() => input[at] = LIKELY[dice.usize(..LIKELY.len())],
        3 => drop(input.drain(run)),
        4 => input.truncate(at),
        5 => {
            let twice = input[run].to_vec();
            input.splice(at..at, twice);
        }
        6 => {
            let other = &corpus[dice.usize(..corpus.len())];
            let from = dice.usize(..=other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        _ => input.insert(at, LIKELY[dice.usize(..LIKELY.len())]),
    }
    input.truncate(INPUT_BYTES_MAX);
}
