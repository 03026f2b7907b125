//! A server with one capability: root becomes nobody, but keeps `CAP_NET_BIND_SERVICE` on every thread; a
//! program that it starts gets it too, by the ambient set; then the server drops it.

use std::error::Error;
use std::io::{self, Write};
use std::process::{Command, ExitCode};

use clap::Parser;
use psx::{CapabilitySet, CapabilitySets, Errno, Privileges};
use psx_examples::attempt::{Answer, Attempt};
use psx_examples::status;
use psx_integrations::{Lacking, NOBODY, Show, ask_all, perform, start_probes};

/// Keeps one capability on every thread over the change from root to nobody, then drops it.
#[derive(Parser)]
struct Options {
    /// How many threads there are besides the main thread.
    #[arg(long, default_value_t = 8)]
    threads: usize,
    /// Be the started program: bind port 80, and exit with the error's number.
    #[arg(long, hide = true)]
    child: bool,
}

const BIND: CapabilitySet = CapabilitySet::NET_BIND_SERVICE;

fn main() -> ExitCode {
    let options = Options::parse();
    if options.child {
        let number = Attempt::BindPort80.make().map_or_else(Errno::raw, |()| 0);
        return ExitCode::from(u8::try_from(number).unwrap_or(u8::MAX));
    }
    perform(io::stdout(), |show| act(show, &options))
}

fn act(show: &mut Show, options: &Options) -> Result<(), Box<dyn Error>> {
    if let Some(reason) = Attempt::BindPort80.pointless() {
        return Err(Lacking(reason).into());
    }
    if status::of_this_process()?[0].credentials.uids[1] != 0 {
        return Err(Lacking("only root can become another user; run it as root".into()).into());
    }
    let probes = start_probes(options.threads);
    let ask = |attempt: Attempt| ask_all(&probes, move || attempt.make());

    writeln!(show, "Root becomes nobody and keeps CAP_NET_BIND_SERVICE, ambient too:")?;
    let kept =
        CapabilitySets { inheritable: BIND, ..CapabilitySets::permitted_and_effective(BIND) };
    let keeping =
        Privileges::new().groups(&[]).gid(NOBODY).uid(NOBODY).capabilities(kept).ambient(BIND);
    apply(show, &keeping, kept, BIND)?;
    show.may(Attempt::BindPort80, &ask(Attempt::BindPort80))?;
    show.may_not(Attempt::OpenShadow, &ask(Attempt::OpenShadow))?;
    show.may_not(Attempt::BecomeRoot, &ask(Attempt::BecomeRoot))?;
    show.may("bind port 80 in a program started now", &[bind_in_child()?])?;

    writeln!(show, "The server has its port, and drops the capability:")?;
    let nothing = CapabilitySets::empty();
    let dropping =
        Privileges::new().capabilities(nothing).ambient(CapabilitySet::empty()).no_new_privs();
    apply(show, &dropping, nothing, CapabilitySet::empty())?;
    for attempt in Attempt::ALL {
        show.may_not(attempt, &ask(attempt))?;
    }
    show.may_not("bind port 80 in a program started now", &[bind_in_child()?])?;
    Ok(())
}

/// Applies the steps, and claims that the kernel reports their effect on every thread.
fn apply(
    show: &mut Show,
    steps: &Privileges,
    sets: CapabilitySets,
    ambient: CapabilitySet,
) -> Result<(), Box<dyn Error>> {
    show.covered(&steps.apply()?)?;
    let threads = psx::threads()?;
    let are_so = threads.iter().all(|thread| {
        let uids = thread.uid;
        [uids.real, uids.effective, uids.saved, uids.filesystem] == [NOBODY; 4]
            && thread.capabilities == sets
            && thread.ambient == ambient
    });
    let has =
        if sets.permitted.is_empty() { "no capability" } else { "CAP_NET_BIND_SERVICE alone" };
    show.claim(format!("the kernel reports for each: uid {NOBODY}, {has}"), are_so)?;
    Ok(())
}

/// Starts a program that binds the port: this one, by a path that nobody (65534) can use too.
fn bind_in_child() -> io::Result<Answer> {
    let status = Command::new("/proc/self/exe").arg("--child").status()?;
    match status.code() {
        Some(0) => Ok(Ok(())),
        Some(number) => Ok(Err(Errno::from_raw(number))),
        None => Err(io::Error::other(format!("the started program ended by {status}"))),
    }
}
