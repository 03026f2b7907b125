/* libpsx: any call, one round for each. */
#include "peer.h"
#include <sys/psx_syscall.h>

static void set_uid(void)
{
	must(psx_syscall3(SYS_setresuid, uid, uid, uid) == 0, "setresuid");
}

static void ids(void)
{
	must(psx_syscall3(SYS_setgroups, group_count, (long)groups, 0) == 0, "setgroups");
	must(psx_syscall3(SYS_setresgid, gid, gid, gid) == 0, "setresgid");
	set_uid();
}

static void six(void)
{
	must(psx_syscall3(SYS_prctl, PR_SET_KEEPCAPS, 1, 0) == 0, "keepcaps");
	ids();
	must(psx_syscall3(SYS_capset, (long)&cap_header, (long)caps, 0) == 0, "capset");
	must(psx_syscall6(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0) == 0, "no_new_privs");
}

void prepare(void)
{
}

const struct op ops[] = {{"one", set_uid}, {"ids", ids}, {"six", six}};
const size_t op_count = 3;
