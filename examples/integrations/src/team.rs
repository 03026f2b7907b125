//! Threads that wait for questions, and answer each for themselves.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};

use psx::thread;

/// What a member does for its life, or for one question.
type Job = Box<dyn FnOnce() + Send>;

/// As many threads as one likes. They end with it.
pub struct Team {
    members: Vec<Sender<Job>>,
}

impl Team {
    /// Starts `size` threads through psx.
    ///
    /// # Errors
    ///
    /// Where a thread cannot be started.
    pub fn start(size: usize) -> io::Result<Self> {
        Self::start_by(size, |name, job| thread::Builder::new().name(name).spawn(job).map(drop))
    }

    /// Starts `size` threads by `spawn`, which gets a thread's name and its body.
    ///
    /// # Errors
    ///
    /// Where a thread cannot be started.
    pub fn start_by(
        size: usize,
        spawn: impl Fn(String, Job) -> io::Result<()>,
    ) -> io::Result<Self> {
        let member = |number| {
            let (member, questions) = mpsc::channel::<Job>();
            spawn(
                format!("member-{number}"),
                Box::new(move || questions.iter().for_each(|job| job())),
            )?;
            Ok(member)
        };
        Ok(Self { members: (1..=size).map(member).collect::<io::Result<_>>()? })
    }

    /// What each of the threads answers, and the calling thread too.
    ///
    /// # Panics
    ///
    /// If `question` does, on any thread.
    pub fn ask<T: Send + 'static>(
        &self,
        question: impl Fn() -> T + Send + Sync + 'static,
    ) -> Vec<T> {
        let question = Arc::new(question);
        let (answer, answers) = mpsc::channel();
        for member in &self.members {
            let (question, answer) = (question.clone(), answer.clone());
            let job = move || drop(answer.send(question()));
            member.send(Box::new(job)).expect("a member lives as long as its team");
        }
        drop(answer);
        let answers: Vec<T> = answers.iter().chain([question()]).collect();
        assert_eq!(answers.len(), self.members.len() + 1, "a member panicked");
        answers
    }
}
