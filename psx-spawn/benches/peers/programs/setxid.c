/* The C library's own broadcast, of glibc or of musl: only the set*id calls have one. */
#include "peer.h"

static void one(void)
{
	must(setresuid(uid, uid, uid) == 0, "setresuid");
}

static void ids(void)
{
	must(setgroups(group_count, groups) == 0, "setgroups");
	must(setresgid(gid, gid, gid) == 0, "setresgid");
	must(setresuid(uid, uid, uid) == 0, "setresuid");
}

void prepare(void)
{
}

const struct op ops[] = {{"one", one}, {"ids", ids}};
const size_t op_count = 2;
