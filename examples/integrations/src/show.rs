//! How an example shows what it claims, and the exit status that says whether it could.

use std::error::Error;
use std::fmt::{self, Display};
use std::io::{self, Write};
use std::process::ExitCode;

use psx::Report;
use psx::privileges::{ApplyError, Cause};
use psx_examples::attempt::{Answer, Attempt};
use psx_examples::status::{self, Credentials};
use psx_examples::table::{self, counted, some_of};

/// The output, and the number of claims in it that did not hold.
pub struct Show {
    out: Box<dyn Write>,
    failed: usize,
}

/// What the machine or the user lacks, so that the example can show nothing.
#[derive(Debug)]
pub struct Lacking(pub String);

impl Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Lacking {}

/// Runs an example, whose output goes to `out`: status 0 if all its claims hold, 1 if not, 2 if it cannot be
/// tried here.
pub fn perform(
    out: impl Write + 'static,
    act: impl FnOnce(&mut Show) -> Result<(), Box<dyn Error>>,
) -> ExitCode {
    let mut show = Show { out: Box::new(out), failed: 0 };
    match act(&mut show) {
        Ok(()) if show.failed == 0 => ExitCode::SUCCESS,
        Ok(()) => {
            eprintln!("{} did not hold.", counted(show.failed, "claim"));
            ExitCode::FAILURE
        }
        // The reader has closed the pipe.
        Err(e) if is_broken_pipe(&*e) => ExitCode::FAILURE,
        Err(e) if is_lacking(&*e) => {
            eprintln!("This cannot be shown here: {e}.");
            ExitCode::from(2)
        }
        Err(e) => {
            eprintln!("Failed: {e}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// Also where psx reports before the round which privilege a step needs.
fn is_lacking(error: &(dyn Error + 'static)) -> bool {
    match error.downcast_ref::<ApplyError>() {
        Some(ApplyError::Step(step)) => {
            step.nothing_changed() && matches!(step.cause(), Cause::Precondition(_))
        }
        _ => error.is::<Lacking>(),
    }
}

impl Show {
    /// Writes a claim, and whether it holds.
    ///
    /// # Errors
    ///
    /// Where the text cannot be written, as for all that follow.
    pub fn claim(&mut self, claim: impl Display, holds: bool) -> io::Result<()> {
        self.failed += usize::from(!holds);
        writeln!(self, "  {}  {claim}", if holds { "ok  " } else { "FAIL" })
    }

    /// Claims that every thread's attempt succeeded.
    ///
    /// # Errors
    ///
    /// As [`claim`](Self::claim).
    pub fn may(&mut self, attempt: impl Display, answers: &[Answer]) -> io::Result<()> {
        self.claim(Tally(&attempt, answers), answers.iter().all(Result::is_ok))
    }

    /// Claims that the kernel refused every thread's attempt.
    ///
    /// # Errors
    ///
    /// As [`claim`](Self::claim).
    pub fn may_not(&mut self, attempt: impl Display, answers: &[Answer]) -> io::Result<()> {
        self.claim(Tally(&attempt, answers), answers.iter().all(is_refused))
    }

    /// Writes what the kernel reports about every thread, and claims that it is what is `wanted`.
    ///
    /// # Errors
    ///
    /// As [`claim`](Self::claim); and where `/proc` cannot be read.
    pub fn states(&mut self, wanted: &Credentials) -> io::Result<()> {
        let threads = status::of_this_process()?;
        let remark = |now: &Credentials| if now == wanted { "" } else { "<- not dropped" };
        writeln!(self, "The kernel reports for {}:", counted(threads.len(), "thread"))?;
        writeln!(self, "{}", table::of_threads(&threads, remark))?;
        let others = threads.iter().filter(|thread| thread.credentials != *wanted);
        let others: Vec<_> = others.map(|thread| thread.name.as_str()).collect();
        match &others[..] {
            [] => self.claim("every thread is as it should be", true),
            _ => self.claim(format!("not as they should be: {}", some_of(&others)), false),
        }
    }

    /// Writes how long a stop took, and claims that it covered all threads of the process.
    ///
    /// # Errors
    ///
    /// As [`claim`](Self::claim); and where `/proc` cannot be read.
    pub fn covered(&mut self, report: &Report) -> io::Result<()> {
        let alive = status::of_this_process()?.len();
        let made = counted(report.threads(), "thread");
        let claim = format!("made by {made} of {alive}, in one stop of {:.1?}", report.stopped());
        self.claim(claim, report.threads() == alive)
    }

    /// The attempts that prove something on this machine; writes which do not, and why.
    ///
    /// # Errors
    ///
    /// As [`claim`](Self::claim).
    pub fn attempts(&mut self) -> io::Result<Vec<Attempt>> {
        let mut attempts = Attempt::ALL.to_vec();
        for attempt in Attempt::ALL {
            if let Some(reason) = attempt.pointless() {
                writeln!(self, "Not tried: {attempt}, because {reason}.")?;
                attempts.retain(|other| *other != attempt);
            }
        }
        Ok(attempts)
    }
}

impl Write for Show {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.out.write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Whether the kernel has refused the attempt for lack of privilege. Another failure, for example of memory or
/// descriptors, proves nothing.
fn is_refused(answer: &Answer) -> bool {
    answer.is_err_and(|errno| io::Error::from(errno).kind() == io::ErrorKind::PermissionDenied)
}

/// `open /etc/shadow: refused to 9 threads (Permission denied)`
struct Tally<'a, D>(&'a D, &'a [Answer]);

impl<D: Display> Display for Tally<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(attempt, answers) = self;
        write!(f, "{attempt}")?;
        let mut shown: Vec<&Answer> = Vec::new();
        for answer in *answers {
            if shown.contains(&answer) {
                continue;
            }
            f.write_str(if shown.is_empty() { ": " } else { ", " })?;
            shown.push(answer);
            let count = answers.iter().filter(|other| *other == answer).count();
            let threads = counted(count, "thread");
            match answer {
                Ok(()) => write!(f, "allowed to {threads}")?,
                Err(errno) if is_refused(answer) => write!(f, "refused to {threads} ({errno})")?,
                Err(errno) => write!(f, "failed for {threads} for another reason ({errno})")?,
            }
        }
        Ok(())
    }
}
