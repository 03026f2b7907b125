//! A thread that answers questions.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

/// What a thread is to run.
pub type Job = Box<dyn FnOnce() + Send>;

/// A thread that waits for questions, and runs each itself. It ends when this is dropped.
///
/// It waits in `read` on a socket, which a signal handler does not end, and which works under filters
/// that refuse futexes.
#[derive(Debug)]
pub struct Probe {
    socket: UnixStream,
    job: Arc<Mutex<Slot>>,
}

/// The question that the socket's next byte announces.
struct Slot(Option<Job>);

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "a job" } else { "no job" })
    }
}

impl Probe {
    /// Starts the thread through psx.
    pub fn start() -> Self {
        Self::start_by(|body| drop(psx::thread::spawn(body)))
    }

    /// Starts the thread by `spawn`, which gets its body.
    pub fn start_by(spawn: impl FnOnce(Job)) -> Self {
        let (socket, mut theirs) = UnixStream::pair().expect("a socket pair");
        let job = Arc::new(Mutex::new(Slot(None)));
        let slot = Arc::clone(&job);
        spawn(Box::new(move || {
            while theirs.read_exact(&mut [0]).is_ok() {
                // Not held while the job runs, and never contended: the other side waits for the byte.
                let job = slot.lock().expect("no panic").0.take();
                job.expect("a job for each byte")();
                theirs.write_all(&[0]).expect("the other side waits");
            }
        }));
        Self { socket, job }
    }

    /// What `question` returns on this thread.
    ///
    /// # Panics
    ///
    /// If `question` does.
    pub fn ask<T: Send + 'static>(&self, question: impl FnOnce() -> T + Send + 'static) -> T {
        let answer = Arc::new(Mutex::new(None));
        let place = Arc::clone(&answer);
        let job = move || {
            let answer = question();
            *place.lock().expect("no panic") = Some(answer);
        };
        self.job.lock().expect("no panic").0 = Some(Box::new(job));
        let mut socket = &self.socket;
        let answered = socket.write_all(&[0]).and_then(|()| socket.read_exact(&mut [0]));
        answered.expect("the thread answers");
        answer.lock().expect("no panic").take().expect("an answer")
    }
}
