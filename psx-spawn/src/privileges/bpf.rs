//! Whether the kernel accepts a program as a seccomp filter: a batch installs it last, when nothing can be
//! undone. The rules are those of `bpf_check_classic` and `check_load_and_stores` in
//! `net/core/filter.c`, and of `seccomp_check_filter` in `kernel/seccomp.c`.

use super::Precondition;

/// `BPF_MAXINSNS`
const MAX_LEN: usize = 4096;
/// `BPF_MEMWORDS`
const MEMORY_WORDS: u32 = 16;
/// The size of `struct seccomp_data`, which a filter reads in aligned words.
const DATA_LEN: u32 = 64;

const LD: u32 = libc::BPF_LD;
const LDX: u32 = libc::BPF_LDX;
const ALU: u32 = libc::BPF_ALU;
const JMP: u32 = libc::BPF_JMP;
const RET: u32 = libc::BPF_RET;
const MISC: u32 = libc::BPF_MISC;
const K: u32 = libc::BPF_K;
const X: u32 = libc::BPF_X;

// Complete codes.
const LOAD_DATA: u32 = LD | libc::BPF_W | libc::BPF_ABS;
const LOAD_LEN: u32 = LD | libc::BPF_W | libc::BPF_LEN;
const LOAD_X_LEN: u32 = LDX | libc::BPF_W | libc::BPF_LEN;
const LOAD_K: u32 = LD | libc::BPF_IMM;
const LOAD_X_K: u32 = LDX | libc::BPF_IMM;
const LOAD_MEMORY: u32 = LD | libc::BPF_MEM;
const LOAD_X_MEMORY: u32 = LDX | libc::BPF_MEM;
const STORE: u32 = libc::BPF_ST;
const STORE_X: u32 = libc::BPF_STX;
const RETURN_K: u32 = RET | K;
const RETURN_A: u32 = RET | libc::BPF_A;
const JUMP: u32 = JMP | libc::BPF_JA;
const NEGATE: u32 = ALU | libc::BPF_NEG;
const DIVIDE_BY_K: u32 = ALU | libc::BPF_DIV | K;
const SHIFT_LEFT_BY_K: u32 = ALU | libc::BPF_LSH | K;
const SHIFT_RIGHT_BY_K: u32 = ALU | libc::BPF_RSH | K;
const A_TO_X: u32 = MISC | libc::BPF_TAX;
const X_TO_A: u32 = MISC | libc::BPF_TXA;

/// Finds the first instruction that the kernel would refuse.
pub(super) fn check(program: &[libc::sock_filter]) -> Result<(), Precondition> {
    let len = program.len();
    if !(1..=MAX_LEN).contains(&len) {
        return Err(Precondition::FilterLength { instructions: len });
    }
    let refuse = |index| Err(Precondition::FilterInstruction { index });
    for (index, instruction) in program.iter().enumerate() {
        if !is_allowed(instruction) || !stays_inside(instruction, len - index - 1) {
            return refuse(index);
        }
    }
    if !matches!(u32::from(program[len - 1].code), RETURN_K | RETURN_A) {
        return refuse(len - 1);
    }
    loads_what_is_stored(program).or_else(refuse)
}

fn is_allowed(&libc::sock_filter { code, k, .. }: &libc::sock_filter) -> bool {
    match u32::from(code) {
        LOAD_DATA => k < DATA_LEN && k % 4 == 0,
        LOAD_MEMORY | LOAD_X_MEMORY | STORE | STORE_X => k < MEMORY_WORDS,
        DIVIDE_BY_K => k != 0,
        SHIFT_LEFT_BY_K | SHIFT_RIGHT_BY_K => k < 32,
        LOAD_LEN | LOAD_X_LEN | LOAD_K | LOAD_X_K | RETURN_K | RETURN_A | JUMP | NEGATE
        | A_TO_X | X_TO_A => true,
        code => is_arithmetic(code) || is_branch(code),
    }
}

fn is_arithmetic(code: u32) -> bool {
    use libc::{BPF_ADD, BPF_AND, BPF_DIV, BPF_LSH, BPF_MUL, BPF_OR, BPF_RSH, BPF_SUB, BPF_XOR};
    let operations =
        [BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_AND, BPF_OR, BPF_XOR, BPF_LSH, BPF_RSH];
    operations.iter().any(|operation| [ALU | operation | K, ALU | operation | X].contains(&code))
}

fn is_branch(code: u32) -> bool {
    let conditions = [libc::BPF_JEQ, libc::BPF_JGE, libc::BPF_JGT, libc::BPF_JSET];
    conditions.iter().any(|condition| [JMP | condition | K, JMP | condition | X].contains(&code))
}

/// Whether an instruction with this many instructions behind it jumps to one of them.
fn stays_inside(instruction: &libc::sock_filter, behind: usize) -> bool {
    match u32::from(instruction.code) {
        JUMP => (instruction.k as usize) < behind,
        code if is_branch(code) => usize::from(instruction.jt.max(instruction.jf)) < behind,
        _ => true,
    }
}

/// Checks that each load from a filter's memory follows a store to the same word on every path. Returns the
/// index of a load that does not. Jumps go forward only, and `stays_inside` holds.
fn loads_what_is_stored(program: &[libc::sock_filter]) -> Result<(), usize> {
    // For each instruction, the words that are stored on every path that jumps to it.
    let mut stored_at = vec![u16::MAX; program.len()];
    let mut stored = 0;
    for (index, instruction) in program.iter().enumerate() {
        stored &= stored_at[index];
        let word = |stored: u16| stored & 1 << (instruction.k % MEMORY_WORDS);
        let next = index + 1;
        match u32::from(instruction.code) {
            STORE | STORE_X => stored |= word(u16::MAX),
            LOAD_MEMORY | LOAD_X_MEMORY if word(stored) == 0 => return Err(index),
            JUMP => {
                stored_at[next + instruction.k as usize] &= stored;
                stored = u16::MAX;
            }
            code if is_branch(code) => {
                for offset in [instruction.jt, instruction.jf] {
                    stored_at[next + usize::from(offset)] &= stored;
                }
                stored = u16::MAX;
            }
            _ => {}
        }
    }
    Ok(())
}
