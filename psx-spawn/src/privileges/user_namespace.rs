//! The id maps of the calling process's user namespace, read from `/proc/self`. Contains `unsafe`: one
//! libc call.
//!
//! If a file cannot be read, the check is left to the kernel: `/proc` may be missing, belong to another pid
//! namespace, or be denied by a Landlock domain.

use std::fs::{self, File};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

use super::{IdKind, Precondition};

/// More than 340 lines, the kernel's limit, of three numbers with ten digits.
const LONGEST: u64 = 64 * 1024;

/// What is known of the namespace; `None` if a file cannot be read.
#[derive(Debug, Default)]
pub(super) struct UserNamespace {
    users: Option<IdMap>,
    groups: Option<IdMap>,
    setgroups: Option<bool>,
}

impl UserNamespace {
    pub(super) fn read() -> Self {
        let read = |name| read_own(name);
        Self {
            users: read(c"uid_map").and_then(|text| IdMap::parse(&text)),
            groups: read(c"gid_map").and_then(|text| IdMap::parse(&text)),
            setgroups: read(c"setgroups").and_then(|text| match text.trim() {
                "allow" => Some(true),
                "deny" => Some(false),
                _ => None,
            }),
        }
    }

    /// Whether the kernel refuses `setgroups(2)`. It does as well while no group is mapped.
    pub(super) fn denies_setgroups(&self) -> bool {
        self.setgroups == Some(false) || self.groups.as_ref().is_some_and(|map| map.0.is_empty())
    }

    /// Checks that the namespace maps all these ids, if its map is known.
    pub(super) fn check(
        &self,
        kind: IdKind,
        ids: impl IntoIterator<Item = u32>,
    ) -> Result<(), Precondition> {
        let map = match kind {
            IdKind::User => &self.users,
            IdKind::Group => &self.groups,
        };
        let unmapped = map.as_ref().and_then(|map| ids.into_iter().find(|&id| !map.contains(id)));
        unmapped.map_or(Ok(()), |id| Err(Precondition::IdNotMapped { kind, id }))
    }
}

/// Whether a thread that shows `id` may have an id that the user namespace does not map: the kernel shows
/// every such id as the overflow id (`user_namespaces(7)`).
///
/// Fails if a map exists and cannot be read. A kernel without user namespaces has none.
pub(super) fn may_stand_for_others(kind: IdKind, id: u32) -> io::Result<bool> {
    /// Used if the kernel's value cannot be read.
    const DEFAULT: u32 = 65534;
    let (map, overflow) = match kind {
        IdKind::User => (c"uid_map", "/proc/sys/kernel/overflowuid"),
        IdKind::Group => (c"gid_map", "/proc/sys/kernel/overflowgid"),
    };
    let overflow = fs::read_to_string(overflow).ok().and_then(|text| text.trim().parse().ok());
    if id != overflow.unwrap_or(DEFAULT) {
        return Ok(false);
    }
    match read_own(map).and_then(|text| IdMap::parse(&text)) {
        Some(map) => Ok(!map.contains_all()),
        None => match File::open(format!("/proc/self/{}", map.to_string_lossy())) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
        },
    }
}

/// The first id and the length of each range of `uid_map` or `gid_map`.
#[derive(Debug, PartialEq, Eq)]
struct IdMap(Vec<(u32, u32)>);

impl IdMap {
    /// Each line has three numbers: the first id inside, the first outside, the length.
    fn parse(text: &str) -> Option<Self> {
        let range = |line: &str| {
            let numbers: Vec<_> = line.split_whitespace().map(str::parse).collect();
            match numbers[..] {
                [Ok(first), Ok(_), Ok(count)] => Some((first, count)),
                _ => None,
            }
        };
        text.lines().map(range).collect::<Option<_>>().map(Self)
    }

    /// Whether every id is mapped. 4294967295 is not an id.
    fn contains_all(&self) -> bool {
        self.0.iter().map(|&(_, count)| u64::from(count)).sum::<u64>() >= u64::from(u32::MAX)
    }

    fn contains(&self, id: u32) -> bool {
        self.0.iter().any(|&(first, count)| id >= first && id - first < count)
    }
}

/// The text of `/proc/self/NAME`, if that is the kernel's file and can be read completely.
fn read_own(name: &std::ffi::CStr) -> Option<String> {
    let file = File::open(format!("/proc/self/{}", name.to_str().ok()?)).ok()?;
    let mut fs = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the kernel writes one `statfs` on success, and only then it is read.
    let is_proc = unsafe {
        libc::fstatfs(file.as_raw_fd(), fs.as_mut_ptr()) == 0
            && fs.assume_init().f_type as u64 == libc::PROC_SUPER_MAGIC as u64
    };
    let mut text = String::new();
    let read = is_proc.then(|| file.take(LONGEST).read_to_string(&mut text))?.ok()?;
    ((read as u64) < LONGEST).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_contains_the_ranges_of_its_lines() {
        let map =
            IdMap::parse("         0       1000          1\n      1000 100000 65536\n").unwrap();
        for (id, is_mapped) in
            [(0, true), (1, false), (999, false), (1000, true), (66535, true), (66536, false)]
        {
            assert_eq!(map.contains(id), is_mapped, "{id}");
        }
        let whole = IdMap::parse("         0          0 4294967295\n").unwrap();
        assert!(whole.contains_all() && !map.contains_all());
        assert!(whole.contains(0) && whole.contains(u32::MAX - 1) && !whole.contains(u32::MAX));
        assert!(!IdMap::parse("").unwrap().contains(0));
    }

    #[test]
    fn malformed_maps_are_unknown() {
        for text in ["deny\n", "0 0\n", "0 0 1 2\n", "0 0 4294967296\n", "\n"] {
            assert_eq!(IdMap::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn this_process_is_in_a_namespace_that_maps_its_ids() {
        let namespace = UserNamespace::read();
        assert!(namespace.users.is_some() && namespace.groups.is_some());
        // SAFETY: the call only reads.
        let uid = unsafe { libc::getuid() };
        assert_eq!(namespace.check(IdKind::User, [uid]), Ok(()));
        let nothing_known = UserNamespace::default();
        assert_eq!(nothing_known.check(IdKind::Group, [7]), Ok(()));
        assert!(!nothing_known.denies_setgroups());
    }
}
