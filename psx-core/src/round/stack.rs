//! How much stack a target must have left in its handler.
//!
//! A handler that overflows its alternate stack after the commit ends the process, or writes into the memory
//! below. So each target checks its stack before it arrives, and does not stop if there is too little.

/// Bytes that the handler itself may use, to stop, make a system call and wait. The runtime case
/// `stack::need_of_the_handler` measures it.
const HANDLER: usize = if cfg!(debug_assertions) { 2048 } else { 1024 };

/// Bytes that it may use instead for the message about a dead caller. The runtime case
/// `stack::need_of_the_last_message` measures it.
const MESSAGE: usize = if cfg!(debug_assertions) { 3072 } else { 1536 };

/// Bytes that a closure of [`Broadcast::run`](crate::Broadcast::run) may use.
const CLOSURE: usize = 2048;

/// Bytes that a target must have left, for a closure or for a plain system call.
pub(super) const fn needed(is_closure: bool) -> usize {
    if is_closure { HANDLER + CLOSURE } else { MESSAGE }
}

const _: () = assert!(HANDLER <= MESSAGE && MESSAGE <= HANDLER + CLOSURE);
