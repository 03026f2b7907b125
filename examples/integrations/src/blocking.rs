//! Work on different threads of tokio's blocking pool.

use std::sync::{Arc, Barrier};

use tokio::task::JoinSet;

/// Runs `job` on `count` threads of the blocking pool. Each waits for the others first, so that no thread runs it
/// twice.
///
/// # Panics
///
/// If `job` does; outside a tokio runtime.
pub async fn on_blocking_threads<T: Send + 'static>(
    count: usize,
    job: impl Fn() -> T + Clone + Send + 'static,
) -> Vec<T> {
    let all_are_here = Arc::new(Barrier::new(count));
    let mut jobs = JoinSet::new();
    for _ in 0..count {
        let (all_are_here, job) = (all_are_here.clone(), job.clone());
        jobs.spawn_blocking(move || {
            all_are_here.wait();
            job()
        });
    }
    jobs.join_all().await
}
