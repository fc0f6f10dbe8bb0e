// Attacks by sockets, and by what System V and POSIX share by name.
#include "attack.h"
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <linux/audit.h>
#include <linux/if_ether.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/vm_sockets.h>
#include <mqueue.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <sys/shm.h>
#include <sys/un.h>

static void family(int f, int type, int protocol, const char *what) {
	if (socket(f, type, protocol) < 0)
		held("socket");
	escaped("%s", what);
}

static void vsock(char **arg) {
	if (socket(AF_VSOCK, SOCK_STREAM, 0) < 0) {
		refused("SOCK_STREAM");
		if (socket(AF_VSOCK, SOCK_DGRAM, 0) < 0) {
			refused("SOCK_DGRAM");
			all_refused();
		}
	}
	escaped("a socket to the machine's own host");
}

static void alg(char **arg) { family(AF_ALG, SOCK_SEQPACKET, 0, "the kernel's own ciphers"); }
static void packet(char **arg) { family(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL), "all packets of the network"); }
static void xdp(char **arg) { family(AF_XDP, SOCK_RAW, 0, "a socket beside the network stack"); }
static void key(char **arg) { family(AF_KEY, SOCK_RAW, 2, "the keys of IPsec"); }

static size_t modules(char *text, size_t size) {
	FILE *f = fopen("/proc/modules", "r");
	if (!f)
		contained("no modules: %s", strerror(errno));
	size_t n = fread(text, 1, size - 1, f);
	fclose(f);
	return n;
}

// A family or a protocol that the kernel does not have yet: it looks for a module, as the
// host's root.
static void socket_modules(char **arg) {
	static char before[1 << 16], after[1 << 16];
	size_t n = modules(before, sizeof before);
	int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_DCCP}, protocols[] = {0, 33, 115, 132, 256}; // DCCP, L2TP, SCTP, SMC
	for (int f = 0; f < 64; f++) // each costs a program of the host's
		close(socket(f, f == AF_KEY ? SOCK_RAW : SOCK_DGRAM, f == AF_KEY ? 2 : 0));
	for (size_t t = 0; t < countof(types); t++)
		for (size_t p = 0; p < countof(protocols); p++)
			close(socket(AF_INET, types[t], protocols[p]));
	for (int p = 0; p < 32; p++)
		close(socket(AF_NETLINK, SOCK_RAW, p));
	size_t now = modules(after, sizeof after);
	if (n == now && !memcmp(before, after, n))
		contained("the same modules as before");
	escaped("the machine loaded modules: %zu bytes of /proc/modules became %zu", n, now);
}

static void raw(char **arg) {
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct icmphdr echo = {.type = ICMP_ECHO, .checksum = htons(0xf7ff)};
	char in[256];
	int fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
	if (fd < 0)
		held("socket");
	if (sendto(fd, &echo, sizeof echo, 0, (void *)&to, sizeof to) < 0 || recv(fd, in, sizeof in, 0) < 0)
		held("a raw packet");
	escaped("sent a packet of its own make");
}

static int netlink(int protocol, void *out, size_t size) {
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
	if (fd < 0)
		held("socket");
	if (send(fd, out, size, 0) < 0)
		held("send");
	return fd;
}

static void audit(char **arg) {
	char in[4096];
	struct nlmsghdr get = {.nlmsg_len = sizeof get, .nlmsg_type = AUDIT_GET, .nlmsg_flags = NLM_F_REQUEST};
	int fd = netlink(NETLINK_AUDIT, &get, sizeof get);
	struct nlmsghdr *h = (void *)in;
	if (recv(fd, in, sizeof in, 0) < 0)
		held("recv");
	if (h->nlmsg_type != AUDIT_GET) {
		errno = -((struct nlmsgerr *)NLMSG_DATA(h))->error;
		held("AUDIT_GET");
	}
	escaped("audit tells its status");
}

static void host_sockets(char **arg) {
	static char in[1 << 16];
	unsigned port = atoi(arg[0]), local, state;
	char line[512];
	struct {
		struct nlmsghdr h;
		struct inet_diag_req_v2 r;
	} ask = {{sizeof ask, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP}, {.sdiag_family = AF_INET, .sdiag_protocol = IPPROTO_TCP, .idiag_states = 1 << TCP_LISTEN}};
	int fd = netlink(NETLINK_SOCK_DIAG, &ask, sizeof ask), more = 1;
	while (more) {
		ssize_t n = recv(fd, in, sizeof in, 0);
		if (n < 0)
			held("recv");
		for (struct nlmsghdr *h = (void *)in; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
			struct inet_diag_msg *m = NLMSG_DATA(h);
			if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR)
				more = 0;
			else if (ntohs(m->id.idiag_sport) == port)
				escaped("sees who listens at port %u", port);
		}
	}
	FILE *f = fopen("/proc/net/tcp", "r");
	while (f && fgets(line, sizeof line, f))
		if (sscanf(line, "%*s %*8x:%x %*s %x", &local, &state) == 2 && local == port && state == TCP_LISTEN)
			escaped("/proc shows who listens at port %u", port);
	contained("nobody is seen to listen at port %u", port);
}

static void set_address(char **arg) {
	struct ifreq r = {.ifr_name = "lo"}, now = {.ifr_name = "lo"};
	struct sockaddr_in *a = (void *)&r.ifr_addr;
	*a = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a636363)};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (fd < 0)
		held("socket");
	if (ioctl(fd, SIOCSIFADDR, &r))
		held("SIOCSIFADDR");
	if (ioctl(fd, SIOCGIFADDR, &now) || memcmp(&((struct sockaddr_in *)&now.ifr_addr)->sin_addr, &a->sin_addr, 4))
		contained("the address is another");
	escaped("gave lo another address");
}

// answers connects and tells whether the secret comes.
static int answers(void *to, socklen_t size, const char *secret, const char *what) {
	int fd = socket(((struct sockaddr *)to)->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) {
		refused(what);
		return 0;
	}
	struct pollfd p = {fd, POLLOUT};
	int why = 0;
	socklen_t length = sizeof why;
	if (connect(fd, to, size)) {
		if (errno == EINPROGRESS) { // somewhere that swallows packets: no need to wait for longer
			if (poll(&p, 1, 2000) != 1)
				errno = ETIMEDOUT;
			else if (!getsockopt(fd, SOL_SOCKET, SO_ERROR, &why, &length))
				errno = why;
		}
		if (errno) {
			refused(what);
			close(fd);
			return 0;
		}
	}
	p.events = POLLIN;
	fcntl(fd, F_SETFL, 0);
	int found = poll(&p, 1, 5000) == 1 && holds_secret(fd, secret);
	close(fd);
	return found;
}

static void tcp(char **arg) {
	struct ifaddrs *list = NULL;
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(arg[0]))};
	for (char **p = (char *[]){"127.0.0.1", "127.0.0.2", "0.0.0.0", "10.0.2.2", "169.254.1.1", "172.17.0.1", "192.168.0.1", NULL}; *p; p++) {
		inet_pton(AF_INET, *p, &to.sin_addr);
		if (answers(&to, sizeof to, arg[1], *p))
			escaped("%s answers at the host's port", *p);
	}
	struct sockaddr_in6 to6 = {.sin6_family = AF_INET6, .sin6_port = to.sin_port};
	for (char **p = (char *[]){"::1", "::ffff:127.0.0.1", NULL}; *p; p++) {
		inet_pton(AF_INET6, *p, &to6.sin6_addr);
		if (answers(&to6, sizeof to6, arg[1], *p))
			escaped("%s answers at the host's port", *p);
	}
	if (getifaddrs(&list))
		refused("getifaddrs");
	for (struct ifaddrs *i = list; i; i = i->ifa_next) {
		if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET)
			continue;
		to.sin_addr = ((struct sockaddr_in *)i->ifa_addr)->sin_addr;
		if (answers(&to, sizeof to, arg[1], i->ifa_name))
			escaped("%s answers at the host's port", i->ifa_name);
	}
	all_refused();
}

static void abstract(char **arg) {
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	size_t n = strlen(arg[0]);
	memcpy(to.sun_path + 1, arg[0], n);
	if (answers(&to, offsetof(struct sockaddr_un, sun_path) + 1 + n, arg[1], "connect"))
		escaped("an abstract socket of the host's answers");
	all_refused();
}

static void named(char **arg) {
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	for (char **p = (char *[]){"", "/proc/1/root", "/proc/1/cwd", NULL}; *p; p++) {
		if ((size_t)snprintf(to.sun_path, sizeof to.sun_path, "%s%s", *p, arg[0]) >= sizeof to.sun_path)
			contained("the path is too long");
		if (answers(&to, sizeof to, arg[1], "connect"))
			escaped("a socket of the host's answers");
	}
	all_refused();
}

static void queue(char **arg) {
	char name[256], text[8192] = "";
	snprintf(name, sizeof name, "/%s", arg[0]);
	mqd_t q = mq_open(name, O_RDWR | O_NONBLOCK);
	if (q < 0)
		held("mq_open");
	if (mq_receive(q, text, sizeof text, NULL) < 0)
		held("mq_receive");
	if (strncmp(text, arg[1], strlen(arg[1])))
		contained("another message");
	escaped("took a message of the host's");
}

static void attach(int id, const char *secret) {
	char *at = shmat(id, NULL, 0);
	if (at == (void *)-1)
		held("shmat");
	if (strncmp(at, secret, strlen(secret)))
		contained("another segment");
	escaped("read shared memory of the host's");
}

static void shared_by_id(char **arg) { attach(atoi(arg[0]), arg[1]); }

static void shared_by_key(char **arg) {
	int id = shmget(atoi(arg[0]), 0, 0);
	if (id < 0)
		held("shmget");
	attach(id, arg[1]);
}

const struct attack network_attacks[] = {
	{"vsock", vsock},
	{"alg", alg},
	{"packet", packet},
	{"xdp", xdp},
	{"af-key", key},
	{"socket-modules", socket_modules},
	{"raw", raw},
	{"audit", audit},
	{"sock-diag", host_sockets},
	{"set-address", set_address},
	{"tcp", tcp},
	{"abstract", abstract},
	{"named-socket", named},
	{"mqueue", queue},
	{"shm-id", shared_by_id},
	{"shm-key", shared_by_key},
	{NULL},
};
