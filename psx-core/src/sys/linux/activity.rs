//! Whether a thread has had the time to do something, from `/proc/PID/task/TID/stat`, see
//! `proc_pid_stat(5)`.

use super::super::Activity;

pub(super) fn parse(stat: &[u8]) -> Option<Activity> {
    // The name may hold anything, parentheses and blanks included: fields count from the last one.
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let mut fields = core::str::from_utf8(&stat[end + 1..]).ok()?.split_ascii_whitespace();
    // The state is field 3; user time is 14, system time 15, the start 22.
    let state = fields.next()?;
    let user: u64 = fields.nth(14 - 4)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let start_time = fields.nth(22 - 16)?.parse().ok()?;
    Some(Activity {
        start_time,
        cpu_time: user.saturating_add(system),
        is_active: matches!(state, "R" | "D"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_count_from_the_end_of_the_name() {
        let stat = b"4711 (a) R (b) S 1 2 3 4 5 6 7 8 9 10 700 80 0 0 20 0 3 0 123456 0 0";
        let activity = Activity { start_time: 123_456, cpu_time: 780, is_active: false };
        assert_eq!(parse(stat), Some(activity));
        let stat = b"1 (a) D 1 2 3 4 5 6 7 8 9 10 0 0 0 0 20 0 3 0 7 0 0";
        assert_eq!(parse(stat), Some(Activity { start_time: 7, cpu_time: 0, is_active: true }));
        assert_eq!(parse(b"4711 (a) R 1 2 3"), None);
        assert_eq!(parse(b""), None);
    }
}
