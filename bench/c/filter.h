// A filter like Docker's default one, as a list: one comparison for each system
// call number that is allowed, in turn, which is how libseccomp writes it. What is
// compared with arguments there is left out: a list with it is longer.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>

#if defined(__x86_64__)
#define FILTER_ARCH AUDIT_ARCH_X86_64
#else
#define FILTER_ARCH AUDIT_ARCH_AARCH64
#endif

// What the profile refuses a job without capabilities, apart from those that no
// kernel has any more.
static const int filter_refused[] = {
	SYS_acct, SYS_add_key, SYS_adjtimex, SYS_bpf, SYS_chroot, SYS_clock_adjtime, SYS_clock_settime, SYS_clone3, SYS_delete_module,
	SYS_fanotify_init, SYS_finit_module, SYS_init_module, SYS_kcmp, SYS_kexec_file_load, SYS_kexec_load, SYS_keyctl,
	SYS_lookup_dcookie, SYS_mbind, SYS_migrate_pages, SYS_mount, SYS_move_pages, SYS_nfsservctl, SYS_open_by_handle_at, SYS_perf_event_open,
	SYS_pivot_root, SYS_process_madvise, SYS_quotactl, SYS_reboot, SYS_request_key, SYS_setdomainname, SYS_sethostname, SYS_setns,
	SYS_settimeofday, SYS_set_mempolicy, SYS_swapoff, SYS_swapon, SYS_syslog, SYS_umount2, SYS_unshare, SYS_userfaultfd, SYS_vhangup,
	SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register, SYS_fsopen, SYS_fsmount, SYS_fsconfig, SYS_fspick, SYS_move_mount, SYS_open_tree,
};

enum { FILTER_NEWEST = 450, FILTER_BLOCK = 200 };

static struct sock_filter filter_code[FILTER_NEWEST + 64];
static struct sock_fprog filter = {0, filter_code};

static void filter_add(unsigned short code, unsigned char yes, unsigned char no, unsigned k) {
	filter_code[filter.len++] = (struct sock_filter){code, yes, no, k};
}

static int filter_allows(int number) {
	for (unsigned i = 0; i < sizeof filter_refused / sizeof *filter_refused; i++)
		if (filter_refused[i] == number)
			return 0;
	return number <= 334 || number >= 424; // between them no architecture has any
}

static void filter_make(void) {
	filter_add(BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, arch));
	filter_add(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, FILTER_ARCH);
	filter_add(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_KILL_PROCESS);
	filter_add(BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr));
	// Jumps reach 255 instructions: after each block there is a way out.
	for (int number = 0; number <= FILTER_NEWEST;) {
		int from = filter.len;
		for (; number <= FILTER_NEWEST && filter.len - from < FILTER_BLOCK; number++)
			if (filter_allows(number))
				filter_add(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, number);
		for (int i = from; i < filter.len; i++)
			filter_code[i].jt = filter.len - i; // to the way out, behind the jump over it
		filter_add(BPF_JMP | BPF_JA, 0, 0, 1);
		filter_add(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW);
	}
	filter_add(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EPERM);
}

static long filter_attach(void) {
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &filter);
}
