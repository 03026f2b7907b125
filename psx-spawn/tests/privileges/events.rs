//! What a batch reports to `tracing`.

use std::fmt::{Debug, Write};
use std::sync::Mutex;

use psx::{Broadcast, CapabilitySets, Divergence, Privileges};
use psx_test_support::seccomp::refuse_here;
use psx_test_support::threads::{start_idlers, start_named};
use psx_test_support::{Case, Line, root};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber, subscriber};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("events::one_for_a_batch", one_for_a_batch).needs(root),
        Case::new("events::what_went_wrong", what_went_wrong).needs(root),
    ]
}

fn one_for_a_batch(_: &Line) {
    start_idlers(2);
    let _all = subscriber::set_default(Kept);
    let batch = Privileges::new().groups(&[7, 8]).gid(65533).uid(65534).no_new_privs();
    let report = batch.capabilities(CapabilitySets::empty()).apply().unwrap();
    let stopped = report.stopped();
    assert_eq!(
        taken(Level::INFO),
        [format!(
            "psx: privileges changed; steps=groups, gid, uid, capabilities, no_new_privs; uid=65534; \
             gid=65533; groups=7, 8; threads=3; divergent=0; attempts=1; stopped={stopped:?}"
        )]
    );
    Privileges::new().effective_uid(65534).apply().unwrap();
    let [event] = &taken(Level::INFO)[..] else { panic!("one event") };
    assert!(event.contains("steps=uid; uid=- 65534 -; threads=3;"), "{event}");
    let rounds = SPANS.lock().unwrap().clone();
    assert_eq!(rounds.len(), 2);
    assert!(rounds.iter().all(|span| span.contains("call=psx::Privileges")), "{rounds:?}");
}

fn what_went_wrong(_: &Line) {
    start_named("refuses", || refuse_here(libc::SYS_setresgid));
    let _all = subscriber::set_default(Kept);
    let lenient = Broadcast::new().divergence(Divergence::Report);
    Privileges::new().groups(&[]).gid(7).apply_with(lenient).unwrap();
    let warnings = taken(Level::WARN);
    let last = warnings.last().unwrap();
    assert!(last.starts_with("psx: privileges changed, not alike"), "{warnings:?}");
    assert!(last.contains("divergent=1"), "{warnings:?}");

    let refused = Privileges::new().uid(u32::MAX).apply().unwrap_err();
    assert_eq!(taken(Level::WARN), [format!("psx: {refused}")]);
    refuse_here(libc::SYS_setresuid);
    let partial = Privileges::new().gid(7).uid(7).keep_groups().apply_with(lenient).unwrap_err();
    let warnings = taken(Level::WARN);
    assert_eq!(*warnings.last().unwrap(), format!("psx: {partial}"));
    assert_eq!(taken(Level::INFO), [""; 0]);
}

static EVENTS: Mutex<Vec<(Level, String)>> = Mutex::new(Vec::new());
static SPANS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Takes the events of this level since the last call.
fn taken(level: Level) -> Vec<String> {
    let mut events = EVENTS.lock().unwrap();
    let (of_level, others) = events.drain(..).partition(|(of, _)| *of == level);
    *events = others;
    of_level.into_iter().map(|(_, text): (Level, String)| text).collect()
}

/// A subscriber that keeps events as text: target, message, fields.
struct Kept;

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.0.insert_str(0, &format!("{value:?}")),
            name => write!(self.0, "; {name}={value:?}").unwrap(),
        }
    }
}

impl Subscriber for Kept {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut text = Text(String::new());
        span.record(&mut text);
        let mut spans = SPANS.lock().unwrap();
        spans.push(text.0);
        Id::from_u64(spans.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let meta = event.metadata();
        let line = format!("{}: {}", meta.target(), text.0);
        EVENTS.lock().unwrap().push((*meta.level(), line));
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
