//! Every thread and its privileges, before and after a drop, by `psx::threads()`: for a log or a health check.

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use comfy_table::{Attribute, Cell, Color, Table, presets};
use psx::CapabilitySet;
use psx::privileges::{Ids, ThreadPrivileges};
use psx_examples::status;
use psx_examples::workers::Workers;
use psx_integrations::{Show, dropping_everything, perform};
use serde_json::{Value, json};

/// Shows every thread and its privileges before and after it drops them.
#[derive(Parser)]
struct Options {
    /// How many busy threads there are besides the main thread.
    #[arg(long, default_value_t = 6)]
    threads: usize,
    /// Write one JSON object; the claims about it go to standard error.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.json {
        perform(io::stderr(), |show| act(show, &options))
    } else {
        perform(io::stdout(), |show| act(show, &options))
    }
}

fn act(show: &mut Show, options: &Options) -> Result<(), Box<dyn Error>> {
    let workers = Workers::start(options.threads, || ())?;
    let (steps, wanted) = dropping_everything(&status::of_this_process()?[0].credentials);

    let before = threads()?;
    let report = steps.apply()?;
    let after = threads()?;
    if options.json {
        let [before, after] = [&before, &after].map(|threads| threads.iter().map(object).collect());
        let stop = json!({
            "threads": report.threads(),
            "attempts": report.attempts(),
            "microseconds": report.stopped().as_secs_f64() * 1e6,
        });
        let whole =
            json!({ "before": Value::Array(before), "stop": stop, "after": Value::Array(after) });
        writeln!(io::stdout(), "{whole}")?;
    } else {
        writeln!(show, "Before:\n{}\n", table(&before, &before))?;
        writeln!(show, "After:\n{}\n", table(&after, &before))?;
    }

    show.covered(&report)?;
    let listed: BTreeSet<u32> = after.iter().map(ThreadPrivileges::tid).collect();
    let threads = status::of_this_process()?;
    let alive: BTreeSet<u32> = threads.iter().map(|thread| thread.tid).collect();
    show.claim("psx::threads() lists the same threads as /proc", listed == alive)?;
    let are_so = threads.iter().all(|thread| thread.credentials == wanted);
    show.claim("every thread has dropped its privileges", are_so)?;
    show.claim("Privileges::verify() agrees", steps.verify().is_ok())?;
    workers.end()?;
    Ok(())
}

/// The threads in the order of their ids.
fn threads() -> io::Result<Vec<ThreadPrivileges>> {
    let mut threads = psx::threads()?;
    threads.sort_by_key(ThreadPrivileges::tid);
    Ok(threads)
}

const HEADINGS: [&str; 10] = [
    "tid",
    "name",
    "uid",
    "gid",
    "groups",
    "effective",
    "permitted",
    "ambient",
    "bounding",
    "no_new_privs",
];

/// The threads' rows, in colour on a terminal: a privilege is red, a change since `before` green.
fn table(threads: &[ThreadPrivileges], before: &[ThreadPrivileges]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(HEADINGS.map(|heading| Cell::new(heading).add_attribute(Attribute::Bold)));
    for thread in threads {
        let earlier = before.iter().find(|earlier| earlier.tid() == thread.tid());
        let old = earlier.map(cells);
        let row = cells(thread).into_iter().enumerate().map(|(column, text)| {
            let has_changed = old.as_ref().is_some_and(|old| old[column] != text);
            let is_privilege = match HEADINGS[column] {
                "uid" | "gid" => text == "0",
                "effective" | "permitted" | "ambient" => text != "none",
                _ => false,
            };
            match Cell::new(text) {
                cell if has_changed => cell.fg(Color::Green),
                cell if is_privilege => cell.fg(Color::Red),
                cell => cell,
            }
        });
        table.add_row(row);
    }
    table
}

fn cells(thread: &ThreadPrivileges) -> [String; 10] {
    let ids = |ids: Ids| match numbers(ids) {
        [real, others @ ..] if others == [real; 3] => real.to_string(),
        different => different.map(|id| id.to_string()).join(" "),
    };
    let groups: Vec<_> = thread.groups.iter().map(u32::to_string).collect();
    [
        thread.tid().to_string(),
        thread.name().to_owned(),
        ids(thread.uid),
        ids(thread.gid),
        if groups.is_empty() { "none".to_owned() } else { groups.join(" ") },
        some_of(thread.capabilities.effective),
        some_of(thread.capabilities.permitted),
        some_of(thread.ambient),
        some_of(thread.bounding),
        if thread.no_new_privs { "yes" } else { "no" }.to_owned(),
    ]
}

/// A few capabilities by name, more by number.
fn some_of(set: CapabilitySet) -> String {
    match &names(set)[..] {
        [] => "none".to_owned(),
        few @ ([_] | [_, _]) => few.join(" "),
        many => many.len().to_string(),
    }
}

fn names(set: CapabilitySet) -> Vec<&'static str> {
    set.iter_names().map(|(name, _)| name).collect()
}

fn numbers(ids: Ids) -> [u32; 4] {
    [ids.real, ids.effective, ids.saved, ids.filesystem]
}

fn object(thread: &ThreadPrivileges) -> Value {
    json!({
        "tid": thread.tid(),
        "name": thread.name(),
        "uid": numbers(thread.uid),
        "gid": numbers(thread.gid),
        "groups": thread.groups,
        "effective": names(thread.capabilities.effective),
        "permitted": names(thread.capabilities.permitted),
        "inheritable": names(thread.capabilities.inheritable),
        "ambient": names(thread.ambient),
        "bounding": names(thread.bounding),
        "no_new_privs": thread.no_new_privs,
        "seccomp_filters": thread.seccomp_filters,
    })
}
