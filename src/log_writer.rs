//! A writer of log lines that never stalls its caller.
//!
//! A log goes to a pipe whose reader may be slow or to a disk that may be full, and the caller is an event loop
//! that carries tunnels. So a line is put into a bounded queue under a short lock, and a thread does the waiting.
//! When the queue is full, or a write fails, lines are lost: counted, and said once in the log itself as soon as
//! something can be written again.
//!
//! The queue is two buffers: callers append to one while the thread writes the other. A burst thus becomes one
//! write, and no line costs an allocation of its own. Nor does it cost system calls: the first line after a silence
//! wakes the thread, which writes it and pauses before it looks for more. So the lines of a busy proxy wait for at most
//! `PAUSE`, and they are written, and the thread is woken, a hundred times a second however many they are.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Bytes that may wait for the thread: some four thousand access-log lines, about what a busy proxy writes while a
/// disk hiccups. As many again may be in the thread's hands.
pub const QUEUE_BYTES_MAX: usize = 1 << 20;

/// Buffers that a burst made larger than this are cut back after it: memory is for tunnels.
const BUFFER_BYTES_KEPT: usize = 8 << 10;

/// Between two writes. On one processor a thread that writes each line as it comes is woken for each, which costs more
/// than the line: six system calls for a tunnel that has twenty. Who watches a log does not see ten milliseconds.
const PAUSE: Duration = Duration::from_millis(10);

/// Bytes in the queue that end a pause: lines would be lost for want of room, and a write has enough of them by now.
const BUSY_BYTES: usize = QUEUE_BYTES_MAX / 4;

/// After a write that failed: lines gather meanwhile, so a full disk is asked ten times a second and not once a
/// line.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// The process's standard error.
    Stderr,
    /// The process's standard output.
    Stdout,
    /// A file: created where it is missing, appended to.
    File(PathBuf),
}

/// What came of opening a log's target again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reopened {
    /// Lines go to the file that now has the path.
    Yes,
    /// The target is not a file.
    NoFile,
}

/// Lines that are missing from a log.
#[derive(Debug, Default)]
pub struct Loss {
    /// How many.
    pub lines: u64,
    /// What the kernel said to the latest write that failed; `None` where the target only was too slow.
    pub error: Option<io::Error>,
}

impl Loss {
    /// Why they were lost, in a few words.
    pub fn reason(&self) -> String {
        match &self.error {
            Some(error) => error.to_string(),
            None => "the reader was too slow".into(),
        }
    }
}

/// The callers' end of a log. Clones write to the same log; when the last one is dropped, the thread writes what
/// is queued and ends.
pub struct LogWriter {
    log: Arc<Log>,
    /// What `io::Write` was given of a line whose newline is still to come.
    partial: Vec<u8>,
}

/// Shared by the clones. The thread has the `Queue` only, so that it can learn that they are gone.
struct Log {
    queue: Arc<Queue>,
    path: Option<PathBuf>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    /// The thread waits here until it is no longer at rest.
    work: Condvar,
    /// `flush_within` waits here for `State::settled`.
    progress: Condvar,
    /// All lines ever lost.
    lost: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Whole lines that wait for the thread.
    lines: Vec<u8>,
    /// Lines that found no room since the thread last looked.
    overflowed: u64,
    /// A file opened anew, for the thread to go on with.
    reopened: Option<File>,
    /// All bytes that ever found room.
    queued: u64,
    /// Those of them that have been written or lost. `settled <= queued`
    settled: u64,
    /// Callers that wait for that. A wake-up is a system call even where nobody waits.
    flushing: u32,
    /// What the thread waits for.
    rest: Rest,
    /// Something should not wait until a pause is over; until the thread looks.
    hurry: bool,
    /// No caller is left.
    closed: bool,
}

/// How the thread rests. Who ends its rest says so here, and wakes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Rest {
    /// It does not: it looks again by itself, and a wake-up would be a wasted system call.
    #[default]
    None,
    /// Between two writes: it looks again by itself soon.
    Pause,
    /// It has nothing to do.
    Sleep,
}

impl LogWriter {
    /// Opens the target and starts the thread `adit-log`. `word_loss` appends the line, newline included, that
    /// says what was lost, so that it looks like the lines around it.
    ///
    /// # Errors
    ///
    /// The file cannot be opened, or the process can have no further descriptor or thread.
    pub fn start(
        target: &LogTarget,
        word_loss: impl FnMut(&Loss, &mut Vec<u8>) + Send + 'static,
    ) -> io::Result<LogWriter> {
        match target {
            LogTarget::Stderr => LogWriter::start_on(duplicate(io::stderr().as_fd())?, None, word_loss),
            LogTarget::Stdout => LogWriter::start_on(duplicate(io::stdout().as_fd())?, None, word_loss),
            LogTarget::File(path) => LogWriter::start_on(open(path)?, Some(path.clone()), word_loss),
        }
    }

    fn start_on(
        file: File,
        path: Option<PathBuf>,
        word_loss: impl FnMut(&Loss, &mut Vec<u8>) + Send + 'static,
    ) -> io::Result<LogWriter> {
        let queue = Arc::new(Queue::default());
        let scribe = Scribe { file, mid_line: false, unsaid: Loss::default(), word_loss };
        let its_queue = Arc::clone(&queue);
        thread::Builder::new().name("adit-log".into()).spawn(move || scribe.run(&its_queue))?;
        Ok(LogWriter { log: Arc::new(Log { queue, path }), partial: Vec::new() })
    }

    /// Queues a line, or several; the last newline is added where it is missing. Returns at once: what finds no
    /// room is lost and counted.
    pub fn write_line(&self, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let queue = &self.log.queue;
        let mut state = queue.lock();
        let bytes = line.len() + 1;
        if bytes > QUEUE_BYTES_MAX - state.lines.len() {
            let lost = newlines(line) + 1;
            state.overflowed += lost;
            queue.lost.fetch_add(lost, Relaxed);
        } else {
            state.lines.extend_from_slice(line);
            state.lines.push(b'\n');
            state.queued += bytes as u64;
            state.hurry |= state.lines.len() >= BUSY_BYTES;
        }
        queue.wake(state);
    }

    /// Whether lines of both go through the same queue.
    pub fn is_same(&self, other: &LogWriter) -> bool {
        Arc::ptr_eq(&self.log, &other.log)
    }

    /// How many lines have been lost since the start.
    pub fn lost(&self) -> u64 {
        self.log.queue.lost.load(Relaxed)
    }

    /// Opens a file target again by its path, as is done after the file was renamed; lines go to the new file from
    /// the next write on. For other targets there is nothing to do, and that is said. It is the caller that waits for
    /// the disk here, so this is for a thread that has the time.
    ///
    /// # Errors
    ///
    /// The file cannot be opened. Lines go on to the old one.
    pub fn reopen(&self) -> io::Result<Reopened> {
        let Some(path) = &self.log.path else { return Ok(Reopened::NoFile) };
        let file = open(path)?;
        let mut state = self.log.queue.lock();
        let replaced = state.reopened.replace(file);
        state.hurry = true;
        self.log.queue.wake(state);
        drop(replaced); // closed only here, outside the lock
        Ok(Reopened::Yes)
    }

    /// Waits until all that was queued before is written or lost, but no longer than `timeout`; says whether it
    /// is. For the end of the process.
    pub fn flush_within(&self, timeout: Duration) -> bool {
        let queue = &self.log.queue;
        let mut state = queue.lock();
        let wanted = state.queued;
        state.flushing += 1;
        state.hurry |= state.settled < wanted;
        queue.wake(state);
        let waited = queue.progress.wait_timeout_while(queue.lock(), timeout, |state| state.settled < wanted);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        state.flushing -= 1;
        !waited.timed_out()
    }
}

impl Clone for LogWriter {
    fn clone(&self) -> LogWriter {
        // Half a line belongs to the one who began it.
        LogWriter { log: Arc::clone(&self.log), partial: Vec::new() }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        if !self.partial.is_empty() {
            self.write_line(&self.partial);
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        (state.closed, state.hurry) = (true, true);
        self.queue.wake(state);
    }
}

/// For loggers that know `io::Write`. Whole lines are queued; the rest of the bytes waits for its newline. Never
/// fails and never waits, in `flush` neither.
impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let whole = piece.ends_with(b"\n");
            if whole && self.partial.is_empty() {
                self.write_line(piece);
                continue;
            }
            // A line that is too long for the queue is cut just beyond its size: it will be lost as a whole, and
            // costs no more memory until its newline comes.
            let room = (QUEUE_BYTES_MAX + 1).saturating_sub(self.partial.len());
            self.partial.extend_from_slice(&piece[..piece.len().min(room)]);
            if whole {
                self.write_line(&self.partial);
                self.partial.clear();
                self.partial.shrink_to(BUFFER_BYTES_KEPT);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; and were it so, a log line is no reason to panic again.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the lock back, then wakes the thread if it sleeps, or pauses and should not.
    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let ends = match state.rest {
            Rest::None => false,
            Rest::Pause => state.hurry,
            Rest::Sleep => true,
        };
        if ends {
            state.rest = Rest::None;
        }
        drop(state);
        if ends {
            self.work.notify_one();
        }
    }

    /// Lets lines gather, unless something should not wait.
    fn pause(&self, duration: Duration) {
        let mut state = self.lock();
        if state.hurry {
            return;
        }
        state.rest = Rest::Pause;
        let waited = self.work.wait_timeout_while(state, duration, |state| state.rest == Rest::Pause);
        waited.unwrap_or_else(PoisonError::into_inner).0.rest = Rest::None;
    }

    /// Waits for something to do and takes all of it; `None` when no caller is left and nothing is queued. `batch`
    /// comes empty and leaves with the lines.
    fn take(&self, batch: &mut Vec<u8>) -> Option<Work> {
        let mut state = self.lock();
        while state.lines.is_empty() && state.overflowed == 0 && state.reopened.is_none() {
            if state.closed {
                return None;
            }
            state.rest = Rest::Sleep;
            let woken = self.work.wait_while(state, |state| state.rest == Rest::Sleep);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
        state.hurry = false;
        mem::swap(&mut state.lines, batch);
        Some(Work { overflowed: mem::take(&mut state.overflowed), reopened: state.reopened.take() })
    }

    fn settle(&self, bytes: usize) {
        let mut state = self.lock();
        state.settled += bytes as u64;
        if state.flushing > 0 {
            self.progress.notify_all();
        }
    }
}

/// What the thread was given besides lines.
struct Work {
    overflowed: u64,
    reopened: Option<File>,
}

/// The thread: the only one that waits for the target.
struct Scribe<F> {
    file: File,
    /// A write failed within a line: the next one must not continue it.
    mid_line: bool,
    /// What is missing from the log and not yet said there.
    unsaid: Loss,
    word_loss: F,
}

impl<F: FnMut(&Loss, &mut Vec<u8>)> Scribe<F> {
    fn run(mut self, queue: &Queue) {
        let mut batch = Vec::new();
        while let Some(work) = queue.take(&mut batch) {
            if let Some(file) = work.reopened {
                self.file = file;
                self.mid_line = false;
            }
            let writable = self.say_loss();
            let lost = if writable { self.write(&batch) } else { newlines(&batch) };
            queue.lost.fetch_add(lost, Relaxed);
            // What overflowed is younger than what was queued, so this is its place in the log.
            self.unsaid.lines += lost + work.overflowed;
            let writable = writable && lost == 0 && self.say_loss();
            queue.settle(batch.len());
            batch.clear();
            batch.shrink_to(BUFFER_BYTES_KEPT);
            if writable {
                queue.pause(PAUSE);
            } else {
                thread::sleep(RETRY_PAUSE);
            }
        }
    }

    /// Writes the line about lost lines, if any are to be told; says whether nothing is left to tell.
    fn say_loss(&mut self) -> bool {
        if self.unsaid.lines == 0 {
            return true;
        }
        let mut line = Vec::new();
        (self.word_loss)(&self.unsaid, &mut line);
        let said = self.write(&line) == 0;
        if said {
            self.unsaid = Loss::default();
        }
        said
    }

    /// Writes whole lines, for as long as it takes, and returns how many of them a failure cost.
    fn write(&mut self, lines: &[u8]) -> u64 {
        if self.mid_line && !lines.is_empty() && self.put(b"\n") == 0 {
            return newlines(lines);
        }
        let written = self.put(lines);
        newlines(&lines[written..])
    }

    /// Writes bytes until all are written or a write fails; returns how many are.
    fn put(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            let error = match self.file.write(&bytes[written..]) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(count) => {
                    written += count;
                    self.mid_line = bytes[written - 1] != b'\n';
                    continue;
                }
                Err(error) => error,
            };
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                // Standard error is shared with others of a terminal or a container, and one of them made it
                // non-blocking. There is no telling when it takes more.
                io::ErrorKind::WouldBlock => thread::sleep(RETRY_PAUSE),
                // An open set: whatever else the kernel says costs what is left of these lines.
                _ => {
                    self.unsaid.error = Some(error);
                    break;
                }
            }
        }
        written
    }
}

/// Opens a log file to be appended to.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// A descriptor of our own for a standard stream, so that a write that waits holds none of the standard library's
/// locks: `eprintln!` elsewhere goes on.
fn duplicate(stream: BorrowedFd<'_>) -> io::Result<File> {
    stream.try_clone_to_owned().map(File::from)
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    /// Longer than anything here takes, even on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn word(loss: &Loss, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("LOST {} {}\n", loss.lines, loss.reason()).as_bytes());
    }

    /// A log into a socket that holds little and that nobody reads until the test does.
    fn blocked() -> (LogWriter, UnixStream) {
        let (ours, reader) = UnixStream::pair().unwrap();
        reader.set_read_timeout(Some(PATIENCE)).unwrap();
        (LogWriter::start_on(File::from(OwnedFd::from(ours)), None, word).unwrap(), reader)
    }

    fn to_file(name: &str) -> (LogWriter, PathBuf, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        (LogWriter::start(&LogTarget::File(path.clone()), word).unwrap(), path, directory)
    }

    /// Runs what must not block in a thread of its own, and fails where it does.
    fn at_once<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, wait) = mpsc::channel();
        thread::spawn(move || done.send(work()));
        wait.recv_timeout(PATIENCE).expect("the caller was stalled")
    }

    fn rest(log: &LogWriter) -> Rest {
        log.log.queue.lock().rest
    }

    #[test]
    fn a_full_pipe_costs_lines_and_never_time_and_says_so_once() {
        let (log, reader) = blocked();
        let sent = 200_000;
        // More than a socket holds, and the thread has it: from here on it waits for the reader.
        log.write_line("line 000000\n".repeat(1000 * 80).as_bytes());
        while !log.log.queue.lock().lines.is_empty() {
            thread::yield_now();
        }
        let log = at_once(move || {
            for number in 1..=sent {
                log.write_line(
                    format!("line {number:06} ----------------------------------------").as_bytes(),
                );
            }
            log
        });
        let lost = log.lost();
        assert!(lost > 0, "10 MB fit into a queue of one");

        let mut reader = BufReader::new(reader).lines().map(Result::unwrap);
        let (mut seen, mut last) = (0, String::new());
        let told = loop {
            let line = reader.next().expect("the log goes on until the loss is told");
            if line.starts_with("LOST") {
                break line;
            }
            if line == "line 000000" {
                continue;
            }
            assert!(line.starts_with("line ") && line.len() == 52 && line > last, "{line:?} after {last:?}");
            (seen, last) = (seen + 1, line);
        };
        assert_eq!(told, format!("LOST {lost} the reader was too slow"));
        assert_eq!(seen + lost, sent);

        log.write_line(b"and on");
        assert_eq!(reader.next().unwrap(), "and on");
        assert_eq!(log.lost(), lost);
    }

    #[test]
    fn flush_waits_for_what_was_queued_but_no_longer_than_told() {
        let (log, mut reader) = blocked();
        assert!(log.flush_within(Duration::ZERO), "nothing was queued");
        log.write_line(&vec![b'x'; QUEUE_BYTES_MAX - 1]);
        let begin = Instant::now();
        assert!(!log.flush_within(Duration::from_millis(50)));
        assert!(begin.elapsed() >= Duration::from_millis(50));

        let reading = thread::spawn(move || {
            let mut taken = vec![0; QUEUE_BYTES_MAX];
            reader.read_exact(&mut taken).unwrap();
            taken
        });
        assert!(log.flush_within(PATIENCE));
        assert!(reading.join().unwrap().ends_with(b"x\n"));
        assert_eq!(log.lost(), 0);
    }

    #[test]
    fn a_file_is_appended_to_and_reopened_by_its_path() {
        let (log, path, directory) = to_file("access.log");
        log.write_line(b"one");
        log.write_line(b"two\n");
        assert!(log.flush_within(PATIENCE));
        let old = directory.path().join("access.log.1");
        std::fs::rename(&path, &old).unwrap();
        log.write_line(b"three");
        assert!(log.flush_within(PATIENCE));
        log.reopen().unwrap();
        log.write_line(b"four");
        assert!(log.flush_within(PATIENCE));
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "one\ntwo\nthree\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "four\n");

        let second = LogWriter::start(&LogTarget::File(path.clone()), word).unwrap();
        second.write_line(b"five");
        assert!(second.flush_within(PATIENCE));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "four\nfive\n");
    }

    #[test]
    fn a_file_that_cannot_be_reopened_goes_on_as_it_was() {
        let (log, path, directory) = to_file("access.log");
        log.write_line(b"one");
        assert!(log.flush_within(PATIENCE));
        let away = directory.path().join("away");
        std::fs::rename(&path, &away).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(log.reopen().unwrap_err().kind(), io::ErrorKind::IsADirectory);
        log.write_line(b"two");
        assert!(log.flush_within(PATIENCE));
        assert_eq!(std::fs::read_to_string(&away).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn a_target_that_cannot_be_opened_is_an_error_at_start() {
        let directory = tempfile::tempdir().unwrap();
        let target = LogTarget::File(directory.path().join("missing/access.log"));
        assert_eq!(LogWriter::start(&target, word).err().unwrap().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn concurrent_callers_keep_their_lines_whole() {
        let (log, path, _directory) = to_file("access.log");
        let callers: Vec<_> = (0..4)
            .map(|caller| {
                let mut log = log.clone();
                thread::spawn(move || {
                    for number in 0..500 {
                        let line = format!("caller {caller} line {number} {}", "-".repeat(number % 50));
                        if caller % 2 == 0 {
                            log.write_line(line.as_bytes());
                        } else {
                            let (head, tail) = line.split_at(9);
                            log.write_all(head.as_bytes()).unwrap();
                            writeln!(log, "{tail}").unwrap();
                        }
                    }
                })
            })
            .collect();
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        assert!(log.flush_within(PATIENCE));
        assert_eq!(log.lost(), 0);
        let text = std::fs::read_to_string(&path).unwrap();
        for caller in 0..4 {
            let prefix = format!("caller {caller} ");
            let lines: Vec<_> = text.lines().filter(|line| line.starts_with(&prefix)).collect();
            let expected: Vec<_> = (0..500)
                .map(|number| format!("caller {caller} line {number} {}", "-".repeat(number % 50)))
                .collect();
            assert_eq!(lines, expected);
        }
        assert_eq!(text.lines().count(), 2000);
    }

    #[test]
    fn io_write_keeps_half_a_line_until_its_newline_or_the_end() {
        let (mut log, path, _directory) = to_file("access.log");
        log.write_all(b"one\ntw").unwrap();
        log.clone().write_all(b"other\n").unwrap();
        log.write_all(b"o\n\nthr").unwrap();
        let last = log.clone();
        drop(log);
        assert!(last.flush_within(PATIENCE));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\nother\ntwo\n\nthr\n");
    }

    #[test]
    fn a_line_longer_than_the_queue_is_lost_alone() {
        let (mut log, path, _directory) = to_file("access.log");
        for _ in 0..3 {
            log.write_all(&[b'x'; QUEUE_BYTES_MAX / 2]).unwrap();
        }
        log.write_all(b"\nand on\n").unwrap();
        assert!(log.flush_within(PATIENCE));
        assert_eq!(log.lost(), 1);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("and on\n") && !text.contains('x'), "{} bytes", text.len());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_costs_lines_without_spinning() {
        let log = LogWriter::start(&LogTarget::File("/dev/full".into()), word).unwrap();
        let begin = Instant::now();
        log.write_line(b"one\ntwo");
        assert!(log.flush_within(PATIENCE));
        assert_eq!(log.lost(), 2);
        log.write_line(b"three");
        assert!(log.flush_within(PATIENCE));
        assert_eq!(log.lost(), 3, "the line about lost lines is not one of them");
        assert!(begin.elapsed() >= RETRY_PAUSE, "a pause lies between two writes that fail");
    }

    #[test]
    fn a_reader_that_went_away_costs_lines() {
        let (log, reader) = blocked();
        drop(reader);
        log.write_line(b"one");
        assert!(log.flush_within(PATIENCE));
        assert_eq!(log.lost(), 1);
    }

    /// The line that failed halfway is not continued by the next one.
    #[test]
    fn a_loss_within_a_line_is_told_on_a_line_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let mut scribe =
            Scribe { file: open(&path).unwrap(), mid_line: false, unsaid: Loss::default(), word_loss: word };
        assert_eq!(scribe.put(b"half a li"), 9);
        scribe.unsaid = Loss { lines: 1, error: Some(io::ErrorKind::StorageFull.into()) };
        assert!(scribe.say_loss());
        assert_eq!(scribe.write(b"next\n"), 0);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "half a li\nLOST 1 no storage space\nnext\n");
    }

    #[test]
    fn the_thread_ends_with_its_last_caller_and_after_the_last_line() {
        let (log, mut reader) = blocked();
        let clone = log.clone();
        drop(log);
        clone.write_line(b"last");
        drop(clone);
        let mut all = String::new();
        reader.read_to_string(&mut all).expect("the thread closes its end");
        assert_eq!(all, "last\n");
    }

    #[test]
    fn a_thread_without_work_sleeps() {
        let (log, _path, _directory) = to_file("access.log");
        log.write_line(b"one");
        assert!(log.flush_within(PATIENCE));
        let deadline = Instant::now() + PATIENCE;
        while rest(&log) != Rest::Sleep {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
    }

    #[test]
    fn however_many_lines_there_are_the_writes_are_a_pause_apart() {
        let (ours, reader) = UnixDatagram::pair().unwrap();
        reader.set_read_timeout(Some(PATIENCE)).unwrap();
        let log = LogWriter::start_on(File::from(OwnedFd::from(ours)), None, word).unwrap();
        // A datagram is a write.
        let mut room = vec![0; QUEUE_BYTES_MAX];
        let mut next = || {
            let length = reader.recv(&mut room).unwrap();
            String::from_utf8(room[..length].to_vec()).unwrap()
        };
        let begin = Instant::now();
        log.write_line(b"first");
        assert_eq!(next(), "first\n");

        let count = 2000;
        let caller = thread::spawn(move || {
            for number in 0..count {
                log.write_line(format!("line {number}").as_bytes());
                thread::yield_now();
            }
            log
        });
        let (mut all, mut writes) = (String::new(), 1);
        while !all.ends_with(&format!("line {}\n", count - 1)) {
            all.push_str(&next());
            writes += 1;
        }
        let pauses = begin.elapsed().as_millis() / PAUSE.as_millis();
        assert!(writes <= 1 + pauses, "{writes} writes in {pauses} pauses");
        let lines: Vec<_> = (0..count).map(|number| format!("line {number}")).collect();
        assert_eq!(all.lines().collect::<Vec<_>>(), lines);
        assert_eq!(caller.join().unwrap().lost(), 0);
    }

    /// A log whose thread is as it is said to be, and stays so.
    fn resting(rest: Rest, path: Option<PathBuf>) -> LogWriter {
        let log = LogWriter { log: Arc::new(Log { queue: Arc::default(), path }), partial: Vec::new() };
        log.log.queue.lock().rest = rest;
        log
    }

    #[test]
    fn a_line_ends_the_threads_sleep_and_leaves_it_its_pause() {
        let log = resting(Rest::Sleep, None);
        log.write_line(b"one");
        assert_eq!(rest(&log), Rest::None);
        let log = resting(Rest::Pause, None);
        log.write_line(b"one");
        assert_eq!(rest(&log), Rest::Pause);
    }

    #[test]
    fn what_should_not_wait_ends_a_pause() {
        let log = resting(Rest::Pause, None);
        let line = [b'x'; 1023];
        for _ in 1..BUSY_BYTES / 1024 {
            log.write_line(&line);
        }
        assert_eq!(rest(&log), Rest::Pause);
        log.write_line(&line);
        assert_eq!(rest(&log), Rest::None, "the queue fills");

        let log = resting(Rest::Pause, None);
        assert!(log.flush_within(Duration::ZERO));
        assert_eq!(rest(&log), Rest::Pause, "nothing is queued");
        log.write_line(b"one");
        assert!(!log.flush_within(Duration::ZERO));
        assert_eq!(rest(&log), Rest::None);

        let directory = tempfile::tempdir().unwrap();
        let log = resting(Rest::Pause, Some(directory.path().join("access.log")));
        log.reopen().unwrap();
        assert_eq!(rest(&log), Rest::None);

        let log = resting(Rest::Pause, None);
        let queue = Arc::clone(&log.log.queue);
        drop(log);
        assert_eq!(queue.lock().rest, Rest::None);
    }

    #[test]
    fn there_is_no_pause_before_what_should_not_wait() {
        let log = resting(Rest::None, None);
        log.write_line(b"one");
        assert!(!log.flush_within(Duration::ZERO));
        let log = at_once(move || {
            log.log.queue.pause(2 * PATIENCE);
            log
        });
        assert!(log.log.queue.take(&mut Vec::new()).is_some());
        assert!(!log.log.queue.lock().hurry, "what hurried is done");
    }
}
