//! `scope`: threads that may borrow, because they end before the scope does.
//!
//! Contains `unsafe`: one cast between references, which gives [`Scope`] std's lifetimes and inference.

use std::{ptr, thread};

use super::{Builder, ScopedJoinHandle};

/// A scope in which registered threads are started: [`std::thread::Scope`] otherwise.
///
/// [`scope`] passes it to its closure.
///
/// # Examples
///
/// ```
/// use psx::thread::{self, Scope};
///
/// fn start<'scope>(scope: &'scope Scope<'scope, '_>, text: &'scope str) {
///     scope.spawn(move || println!("{text}"));
/// }
///
/// let text = String::from("borrowed");
/// thread::scope(|scope| start(scope, &text));
/// ```
#[derive(Debug)]
#[repr(transparent)]
pub struct Scope<'scope, 'env: 'scope>(thread::Scope<'scope, 'env>);

/// Runs `f`, and returns when all registered threads of the scope have ended: [`std::thread::scope`]
/// otherwise.
///
/// # Panics
///
/// As [`std::thread::scope`], if a thread of the scope panicked and was not joined by hand.
///
/// # Examples
///
/// ```
/// use psx::thread;
///
/// let mut numbers = vec![1, 2, 3];
/// let mut sum = 0;
/// thread::scope(|scope| {
///     scope.spawn(|| println!("{numbers:?}"));
///     scope.spawn(|| sum = numbers.iter().sum());
/// });
/// numbers.push(sum);
/// assert_eq!(numbers, [1, 2, 3, 6]);
/// ```
#[track_caller]
pub fn scope<'env, F, T>(f: F) -> T
where
    F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T,
{
    thread::scope(|scope| f(Scope::from_std(scope)))
}

impl<'scope, 'env> Scope<'scope, 'env> {
    /// Starts a registered thread in the scope: [`std::thread::Scope::spawn`] otherwise.
    ///
    /// # Panics
    ///
    /// As [`psx::thread::spawn`](super::spawn); [`Builder::spawn_scoped`] returns an error instead.
    ///
    /// # Examples
    ///
    /// ```
    /// let text = String::from("borrowed");
    /// let length = psx::thread::scope(|scope| scope.spawn(|| text.len()).join().unwrap());
    /// assert_eq!(length, 8);
    /// ```
    pub fn spawn<F, T>(&'scope self, f: F) -> ScopedJoinHandle<'scope, T>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        Builder::new().spawn_scoped(self, f).expect("failed to spawn thread")
    }

    fn from_std<'a>(scope: &'a thread::Scope<'scope, 'env>) -> &'a Self {
        // SAFETY: `Self` is a transparent wrapper, so both types have the same layout and validity, and the
        // reference keeps its lifetime.
        unsafe { &*ptr::from_ref(scope).cast::<Self>() }
    }

    pub(super) fn as_std(&self) -> &thread::Scope<'scope, 'env> {
        &self.0
    }
}
