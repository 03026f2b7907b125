//! `spawn` and `Builder`: threads that borrow nothing.

use std::{io, thread};

use super::{JoinHandle, Scope, ScopedJoinHandle, prepare_spawn};

/// Starts a registered thread: [`std::thread::spawn`] otherwise.
///
/// # Panics
///
/// As [`std::thread::spawn`], if the operating system cannot start a thread. Also if the calling thread
/// cannot be registered ([`adopt`](super::adopt) returns the error). [`Builder::spawn`] returns an error
/// instead.
///
/// # Examples
///
/// ```
/// use psx::thread;
///
/// let handle = thread::spawn(|| 6 * 7);
/// assert_eq!(handle.join().unwrap(), 42);
/// ```
pub fn spawn<F, T>(f: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    Builder::new().spawn(f).expect("failed to spawn thread")
}

/// Starts registered threads with a name or a stack size: [`std::thread::Builder`] otherwise.
///
/// # Examples
///
/// ```
/// use psx::thread;
///
/// let worker = thread::Builder::new().name("worker".into()).stack_size(64 * 1024);
/// let handle = worker.spawn(|| thread::current().name().map(str::to_owned))?;
/// assert_eq!(handle.join().unwrap().as_deref(), Some("worker"));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "must eventually spawn the thread"]
pub struct Builder(thread::Builder);

impl Builder {
    /// A builder without a name and with std's stack size, as [`std::thread::Builder::new`].
    ///
    /// # Examples
    ///
    /// ```
    /// let handle = psx::thread::Builder::new().spawn(|| "done")?;
    /// assert_eq!(handle.join().unwrap(), "done");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[expect(clippy::new_without_default, reason = "std's Builder has none")]
    pub fn new() -> Self {
        Self(thread::Builder::new())
    }

    /// Names the thread, as [`std::thread::Builder::name`]. The kernel keeps the first 15 bytes, which psx's
    /// errors show.
    ///
    /// # Examples
    ///
    /// ```
    /// # use psx::thread;
    /// let handle = thread::Builder::new()
    ///     .name("listener".into())
    ///     .spawn(|| assert_eq!(thread::current().name(), Some("listener")))?;
    /// handle.join().unwrap();
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn name(self, name: String) -> Self {
        Self(self.0.name(name))
    }

    /// Sets the size of the stack in bytes, as [`std::thread::Builder::stack_size`].
    ///
    /// # Examples
    ///
    /// ```
    /// let handle = psx::thread::Builder::new().stack_size(32 * 1024).spawn(|| ())?;
    /// handle.join().unwrap();
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn stack_size(self, size: usize) -> Self {
        Self(self.0.stack_size(size))
    }

    /// Starts the registered thread: [`std::thread::Builder::spawn`] otherwise.
    ///
    /// # Errors
    ///
    /// The operating system's error if it cannot start a thread; or a [`psx::Error`](crate::Error) in an
    /// [`io::Error`] if the calling thread cannot be registered.
    ///
    /// # Panics
    ///
    /// If the name contains a zero byte, as std does.
    ///
    /// # Examples
    ///
    /// ```
    /// let handle = psx::thread::Builder::new().spawn(|| 1 + 1)?;
    /// assert_eq!(handle.join().unwrap(), 2);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn spawn<F, T>(self, f: F) -> io::Result<JoinHandle<T>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let (_guard, body) = prepare_spawn(f)?;
        self.0.spawn(body)
    }

    /// Starts the registered thread with no bound on what it borrows:
    /// [`std::thread::Builder::spawn_unchecked`] otherwise.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    ///
    /// # Panics
    ///
    /// As [`spawn`](Self::spawn).
    ///
    /// # Safety
    ///
    /// As [`std::thread::Builder::spawn_unchecked`]: the thread must be joined before the borrows of `f` and
    /// of its result end.
    ///
    /// # Examples
    ///
    /// ```
    /// let numbers = [1, 2, 3];
    /// // SAFETY: the thread is joined while `numbers` lives.
    /// let handle = unsafe {
    ///     psx::thread::Builder::new().spawn_unchecked(|| numbers.iter().sum::<i32>())?
    /// };
    /// assert_eq!(handle.join().unwrap(), 6);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub unsafe fn spawn_unchecked<F, T>(self, f: F) -> io::Result<JoinHandle<T>>
    where
        F: FnOnce() -> T + Send,
        T: Send,
    {
        let (_guard, body) = prepare_spawn(f)?;
        // SAFETY: the body borrows what `f` borrows, for which the caller keeps std's contract; the ticket
        // borrows nothing.
        unsafe { self.0.spawn_unchecked(body) }
    }

    /// Starts the registered thread in `scope`: [`std::thread::Builder::spawn_scoped`] otherwise.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    ///
    /// # Panics
    ///
    /// As [`spawn`](Self::spawn).
    ///
    /// # Examples
    ///
    /// ```
    /// use psx::thread;
    ///
    /// let numbers = [1, 2, 3];
    /// let sum = thread::scope(|scope| {
    ///     let worker = thread::Builder::new().name("adder".into());
    ///     let handle = worker.spawn_scoped(scope, || numbers.iter().sum::<i32>())?;
    ///     Ok::<_, std::io::Error>(handle.join().unwrap())
    /// })?;
    /// assert_eq!(sum, 6);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn spawn_scoped<'scope, 'env, F, T>(
        self,
        scope: &'scope Scope<'scope, 'env>,
        f: F,
    ) -> io::Result<ScopedJoinHandle<'scope, T>>
    where
        F: FnOnce() -> T + Send + 'scope,
        T: Send + 'scope,
    {
        let (_guard, body) = prepare_spawn(f)?;
        self.0.spawn_scoped(scope.as_std(), body)
    }
}
