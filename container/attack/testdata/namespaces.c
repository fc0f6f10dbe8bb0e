// Attacks that make namespaces, or enter those of others.
#include "attack.h"
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/sched.h>
#include <sys/mount.h>

// unshare_one makes a namespace and looks whether the process is in another than before.
static void unshare_one(int flag, const char *link) {
	char path[64], before[64] = "", after[64] = "";
	snprintf(path, sizeof path, "/proc/self/ns/%s", link);
	if (readlink(path, before, sizeof before - 1) < 0)
		held("readlink");
	if (unshare(flag))
		held("unshare");
	if (flag == CLONE_NEWPID || flag == 0x80 /* CLONE_NEWTIME */) { // the children's link is empty until there is one
		escaped("children will be in another namespace than %s", before);
	}
	if (readlink(path, after, sizeof after - 1) < 0)
		held("readlink");
	if (!strcmp(before, after))
		contained("still in %s", before);
	escaped("from %s to %s", before, after);
}

static void unshare_user(char **arg) { unshare_one(CLONE_NEWUSER, "user"); }
static void unshare_mount(char **arg) { unshare_one(CLONE_NEWNS, "mnt"); }
static void unshare_pid(char **arg) { unshare_one(CLONE_NEWPID, "pid"); }
static void unshare_net(char **arg) { unshare_one(CLONE_NEWNET, "net"); }
static void unshare_ipc(char **arg) { unshare_one(CLONE_NEWIPC, "ipc"); }
static void unshare_uts(char **arg) { unshare_one(CLONE_NEWUTS, "uts"); }
static void unshare_cgroup(char **arg) { unshare_one(CLONE_NEWCGROUP, "cgroup"); }
static void unshare_time(char **arg) { unshare_one(0x80, "time"); }

// compare_child ends with whether that child is in another user namespace than this one.
static void compare_child(pid_t pid, const char *before) {
	char path[64], after[64] = "";
	snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
	ssize_t n = readlink(path, after, sizeof after - 1);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	// A child in a namespace of its own has all capabilities there; this one may look.
	if (n > 0 && !strcmp(before, after))
		contained("the child is in %s as well", before);
	escaped("a child in a user namespace of its own");
}

static void clone_user(char **arg) {
	char before[64] = "";
	if (readlink("/proc/self/ns/user", before, sizeof before - 1) < 0)
		held("readlink");
	pid_t pid = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
	if (pid < 0)
		held("clone");
	if (!pid)
		for (;;)
			pause();
	compare_child(pid, before);
}

static void clone3_user(char **arg) {
	char before[64] = "";
	struct clone_args args = {.flags = CLONE_NEWUSER, .exit_signal = SIGCHLD};
	if (readlink("/proc/self/ns/user", before, sizeof before - 1) < 0)
		held("readlink");
	pid_t pid = syscall(SYS_clone3, &args, sizeof args);
	if (pid < 0)
		held("clone3");
	if (!pid)
		for (;;)
			pause();
	compare_child(pid, before);
}

// Most ways out begin with capabilities in a user namespace of one's own.
static void nested_mount(char **arg) {
	if (new_user_namespace(CLONE_NEWNS))
		held("a user namespace");
	if (mount("tmpfs", "/tmp", "tmpfs", 0, NULL))
		held("mount");
	if (open("/tmp/attack", O_CREAT | O_EXCL | O_WRONLY, 0600) < 0)
		held("open");
	escaped("mounted in a user namespace");
}

static void nested_fsopen(char **arg) {
	char value[4000];
	memset(value, 'x', sizeof value - 1);
	value[sizeof value - 1] = 0;
	if (new_user_namespace(CLONE_NEWNS))
		held("a user namespace");
	int fd = syscall(SYS_fsopen, "cgroup2", 0);
	if (fd < 0)
		held("fsopen");
	// What overflowed: a long text for a file system with the old parser of options.
	if (syscall(SYS_fsconfig, fd, FSCONFIG_SET_STRING, "source", value, 0) && errno == EPERM)
		held("fsconfig");
	escaped("a file system's parser takes what a user namespace says");
}

static void nested_overlay(char **arg) {
	if (new_user_namespace(CLONE_NEWNS))
		held("a user namespace");
	if (mount("tmpfs", "/tmp", "tmpfs", 0, NULL))
		held("mount of tmpfs");
	if (mkdir("/tmp/l", 0755) || mkdir("/tmp/u", 0755) || mkdir("/tmp/w", 0755) || mkdir("/tmp/m", 0755))
		held("mkdir");
	if (mount("overlay", "/tmp/m", "overlay", 0, "lowerdir=/tmp/l,upperdir=/tmp/u,workdir=/tmp/w"))
		held("mount of overlay");
	if (open("/tmp/m/attack", O_CREAT | O_EXCL | O_WRONLY, 0600) < 0 || access("/tmp/u/attack", F_OK))
		held("open");
	escaped("an overlay in a user namespace");
}

static size_t put(char *to, int type, int flags, int family, int res, const char *name) {
	struct nlmsghdr *h = (void *)to;
	struct nfgenmsg *g = NLMSG_DATA(h);
	*h = (struct nlmsghdr){.nlmsg_len = NLMSG_SPACE(sizeof *g), .nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | flags};
	*g = (struct nfgenmsg){.nfgen_family = family, .version = NFNETLINK_V0, .res_id = htons(res)};
	if (name) {
		struct nlattr *a = (void *)(to + h->nlmsg_len);
		a->nla_type = NFTA_TABLE_NAME;
		a->nla_len = NLA_HDRLEN + strlen(name) + 1;
		strcpy((char *)a + NLA_HDRLEN, name);
		h->nlmsg_len += NLMSG_ALIGN(a->nla_len);
	}
	return h->nlmsg_len;
}

// make_table makes a table of nftables and returns whether the kernel said yes.
static int make_table(void) {
	char out[512] = {0}, in[4096];
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	if (fd < 0)
		held("socket of netfilter");
	size_t n = put(out, NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES, NULL);
	n += put(out + n, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_ACK, AF_INET, 0, "attack");
	n += put(out + n, NFNL_MSG_BATCH_END, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES, NULL);
	if (send(fd, out, n, 0) < 0 || recv(fd, in, sizeof in, 0) < (ssize_t)NLMSG_SPACE(sizeof(struct nlmsgerr)))
		held("a message of netfilter");
	errno = -((struct nlmsgerr *)NLMSG_DATA((struct nlmsghdr *)in))->error;
	return !errno;
}

static void nested_nftables(char **arg) {
	if (new_user_namespace(CLONE_NEWNET))
		held("a user namespace");
	if (!make_table())
		held("NFT_MSG_NEWTABLE");
	escaped("a table of nftables");
}

static void nftables(char **arg) {
	if (!make_table())
		held("NFT_MSG_NEWTABLE");
	escaped("a table of nftables in the network that was there");
}

static void nested_packet(char **arg) {
	int version = TPACKET_V3;
	struct tpacket_req3 req = {.tp_block_size = 1 << 16, .tp_block_nr = 1, .tp_frame_size = 1 << 11, .tp_frame_nr = 1 << 5, .tp_retire_blk_tov = 60};
	if (new_user_namespace(CLONE_NEWNET))
		held("a user namespace");
	int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
	if (fd < 0)
		held("socket");
	if (setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version) || setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &req, sizeof req))
		held("PACKET_RX_RING");
	escaped("a ring of packets");
}

static void enter(char **arg) {
	pid_t pid = victim(arg[0]);
	for (char **n = (char *[]){"net", "uts", "ipc", "cgroup", "mnt", "pid", "user", NULL}; *n; n++) {
		char path[64];
		snprintf(path, sizeof path, "/proc/%d/ns/%s", pid, *n);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd >= 0 && !setns(fd, 0))
			escaped("entered the %s namespace of process %d", *n, pid);
		refused(*n);
	}
	int fd = syscall(SYS_pidfd_open, pid, 0);
	if (fd >= 0 && !setns(fd, CLONE_NEWNET | CLONE_NEWUTS))
		escaped("entered the namespaces of process %d by its pidfd", pid);
	refused("pidfd");
	all_refused();
}

// What an emptied group has run as the host's root: cgroup v1's release_agent.
static int set_release_agent(void *data) {
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		refused("mount MS_PRIVATE");
	for (char **o = (char *[]){"none,name=inlay-attack", "rdma", "misc", "memory", NULL}; *o; o++) {
		if (mount("cgroup", "/tmp", "cgroup", 0, *o)) {
			refused(*o);
			continue;
		}
		int ok = tell("/tmp/release_agent", "/bin/true");
		if (!ok)
			refused("write of release_agent");
		if (umount("/tmp"))
			refused("umount");
		if (ok)
			return 0;
	}
	return 1;
}

static int set_in_user_namespace(void *data) { return new_user_namespace(CLONE_NEWNS | CLONE_NEWCGROUP) ? 1 : set_release_agent(data); }

static void release_agent(char **arg) {
	if (!exits(set_in_user_namespace, NULL))
		escaped("release_agent is set, from a user namespace");
	if (unshare(CLONE_NEWNS)) { // a hierarchy is made in the first cgroup namespace alone
		refused("unshare");
		if (errno != EPERM && errno != ENOSYS)
			all_refused();
	}
	if (!set_release_agent(NULL))
		escaped("release_agent is set");
	all_refused();
}

const struct attack namespace_attacks[] = {
	{"unshare-user", unshare_user},
	{"unshare-mount", unshare_mount},
	{"unshare-pid", unshare_pid},
	{"unshare-net", unshare_net},
	{"unshare-ipc", unshare_ipc},
	{"unshare-uts", unshare_uts},
	{"unshare-cgroup", unshare_cgroup},
	{"unshare-time", unshare_time},
	{"clone-user", clone_user},
	{"clone3-user", clone3_user},
	{"nested-mount", nested_mount},
	{"nested-fsopen", nested_fsopen},
	{"nested-overlay", nested_overlay},
	{"nested-nftables", nested_nftables},
	{"nested-packet", nested_packet},
	{"nftables", nftables},
	{"setns-victim", enter},
	{"setns-init", enter},
	{"release-agent", release_agent},
	{NULL},
};
