//! How much stack a thread must have left in its handler, so that it is counted as stopped.
//!
//! A handler that runs out of its alternate stack after the commit ends the process, or writes into
//! what lies below. So each thread compares what is left before it arrives, and refuses.

/// What the handler itself may use to stop, to make the call and to wait. The runtime case
/// `stack::need_of_the_handler` measures it.
const HANDLER: usize = if cfg!(debug_assertions) { 2048 } else { 1024 };

/// What it may use, at another time, for the message about a caller that is dead. The runtime case
/// `stack::need_of_the_last_message` measures it.
const MESSAGE: usize = if cfg!(debug_assertions) { 3072 } else { 1536 };

/// What a closure of [`Broadcast::run`](crate::Broadcast::run) may use.
const CLOSURE: usize = 2048;

/// What a thread must have left for a closure, or for a plain system call.
pub(super) const fn needed(is_closure: bool) -> usize {
    if is_closure { HANDLER + CLOSURE } else { MESSAGE }
}

const _: () = assert!(HANDLER <= MESSAGE && MESSAGE <= HANDLER + CLOSURE);
