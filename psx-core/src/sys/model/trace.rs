//! The events of the execution that runs now, for the report of a failure.

use std::cell::RefCell;

use super::task::Task;

thread_local! {
    /// Thread id, event, and the event's operand or result.
    static TRACE: RefCell<Vec<(u32, &'static str, u64)>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn clear() {
    TRACE.take();
}

pub(super) fn log(task: &Task, event: &'static str, value: u64) {
    TRACE.with_borrow_mut(|trace| trace.push((task.tid, event, value)));
}

/// The events so far, one a line.
pub(crate) fn text() -> String {
    let line = |(tid, event, value): &(u32, &str, u64)| format!("  thread {tid} {event} {value}\n");
    TRACE.with_borrow(|trace| trace.iter().map(line).collect())
}
