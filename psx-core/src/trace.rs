//! The `tracing` span of a broadcast. The caller records it before the first attempt and after the
//! release, never while threads are stopped: a subscriber takes locks that a stopped thread may hold.

use crate::broadcast::CallName;
use crate::{Broadcast, Error, Report};

#[cfg(feature = "tracing")]
pub(crate) use tracing::Span;

/// Opens the span.
#[cfg(feature = "tracing")]
pub(crate) fn begin(call: CallName, plan: &Broadcast) -> Span {
    tracing::debug_span!(
        "psx::round",
        %call,
        ?plan,
        targets = tracing::field::Empty,
        attempts = tracing::field::Empty,
        outcome = tracing::field::Empty,
    )
}

/// Records the result in the span.
#[cfg(feature = "tracing")]
pub(crate) fn end(span: &Span, result: &Result<Report, Error>) {
    match result {
        Ok(report) => {
            span.record("targets", report.threads() - 1);
            span.record("attempts", report.attempts());
            span.record("outcome", "committed");
            let stops = report.stops();
            tracing::debug!(
                parent: span,
                stopped = ?stops.total(),
                longest_stop = ?stops.longest(),
                "all threads made the call"
            );
            match report.left_out() {
                Ok(threads) if threads.is_empty() => {}
                Ok(threads) => {
                    tracing::warn!(parent: span, "unregistered threads did not make the call: {threads}");
                }
                Err(errno) => tracing::warn!(
                    parent: span,
                    "unregistered threads did not make the call, and cannot be counted: {errno}"
                ),
            }
            for divergent in report.divergent() {
                tracing::warn!(parent: span, "{divergent}, the calling thread got {}", report.value());
            }
        }
        Err(error) => {
            span.record("outcome", "refused");
            tracing::warn!(parent: span, "{error}");
        }
    }
}

#[cfg(not(feature = "tracing"))]
pub(crate) struct Span;

#[cfg(not(feature = "tracing"))]
pub(crate) fn begin(_: CallName, _: &Broadcast) -> Span {
    Span
}

#[cfg(not(feature = "tracing"))]
pub(crate) fn end(_: &Span, _: &Result<Report, Error>) {}
