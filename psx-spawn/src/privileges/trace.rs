//! The `tracing` event of a batch, after it has ended. The broadcast has recorded its own by then.

use super::{ApplyError, Privileges, Step};
use crate::Report;

/// Emits one event for the whole batch: at INFO if it took effect, at WARN if a step failed or a thread
/// diverged. The broadcast has recorded its own error.
#[cfg(feature = "tracing")]
pub(super) fn end(batch: &Privileges, result: &Result<(Report, Vec<Step>), ApplyError>) {
    use shown::{Groups, Steps};
    use tracing::field;

    macro_rules! event {
        ($level:ident, $report:expr, $steps:expr, $message:literal) => {
            tracing::$level!(
                target: "psx",
                steps = %Steps($steps),
                uid = (!batch.uid.is_none()).then(|| field::display(batch.uid)),
                gid = (!batch.gid.is_none()).then(|| field::display(batch.gid)),
                groups = batch.groups.as_deref().map(|groups| field::display(Groups(groups))),
                threads = $report.threads(),
                divergent = $report.divergent().len(),
                attempts = $report.attempts(),
                stopped = ?$report.stopped(),
                $message
            )
        };
    }
    match result {
        Ok((report, steps)) if report.is_unanimous() => {
            event!(info, report, steps, "privileges changed");
        }
        Ok((report, steps)) => {
            event!(warn, report, steps, "privileges changed, not alike on all threads");
        }
        Err(error @ ApplyError::Step(_)) => tracing::warn!(target: "psx", "{error}"),
        Err(_) => {}
    }
}

#[cfg(not(feature = "tracing"))]
pub(super) fn end(_: &Privileges, _: &Result<(Report, Vec<Step>), ApplyError>) {}

/// The `Display` of the event's fields.
#[cfg(feature = "tracing")]
mod shown {
    use std::fmt::{Display, Formatter, Result};

    use crate::privileges::{ResIds, Step};

    pub(super) struct Steps<'s>(pub(super) &'s [Step]);

    impl Display for Steps<'_> {
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            list(self.0, f)
        }
    }

    /// Shows the first 16 of up to 65536.
    pub(super) struct Groups<'g>(pub(super) &'g [u32]);

    impl Display for Groups<'_> {
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            const SHOWN: usize = 16;
            let (first, rest) = self.0.split_at(self.0.len().min(SHOWN));
            list(first, f)?;
            if rest.is_empty() { Ok(()) } else { write!(f, " and {} more", rest.len()) }
        }
    }

    fn list(items: &[impl Display], f: &mut Formatter<'_>) -> Result {
        for (i, item) in items.iter().enumerate() {
            write!(f, "{}{item}", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }

    /// One number if all three ids are set to it; else three, `-` for an unchanged one.
    impl Display for ResIds {
        fn fmt(&self, f: &mut Formatter<'_>) -> Result {
            let [real, effective, saved] = self.0;
            match real {
                Some(id) if real == effective && effective == saved => write!(f, "{id}"),
                _ => {
                    let one = |id: Option<u32>| id.map_or("-".to_owned(), |id| id.to_string());
                    write!(f, "{} {} {}", one(real), one(effective), one(saved))
                }
            }
        }
    }
}
