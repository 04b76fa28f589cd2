//! Files of the built-in rootfs: path, mode, content.

pub(super) const FILES: &[(&str, u32, &str)] = &[
    (
        "etc/passwd",
        0o644,
        "root:x:0:0:root:/root:/bin/sh\n\
         daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
         bin:x:2:2:bin:/bin:/usr/sbin/nologin\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    (
        "etc/group",
        0o644,
        "root:x:0:\ndaemon:x:1:\nbin:x:2:\nsys:x:3:\nadm:x:4:\ntty:x:5:\ndisk:x:6:\nkmem:x:15:\nutmp:x:43:\n\
         users:x:100:\nnogroup:x:65534:\n",
    ),
    (
        "etc/shadow",
        0o600,
        "root:*:0:0:99999:7:::\ndaemon:*:0:0:99999:7:::\nbin:*:0:0:99999:7:::\nnobody:*:0:0:99999:7:::\n",
    ),
    ("etc/shells", 0o644, "/bin/sh\n/bin/ash\n"),
    (
        "etc/profile",
        0o644,
        "export PATH=\"${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}\"\n\
         export PS1='\\u@\\h:\\w\\$ '\n\
         for script in /etc/profile.d/*.sh; do\n\
         \x20   [ -r \"$script\" ] && . \"$script\"\n\
         done\n\
         unset script\n",
    ),
    (
        "etc/os-release",
        0o644,
        "NAME=\"vmette built-in\"\nID=vmette\nPRETTY_NAME=\"vmette built-in rootfs (busybox)\"\n",
    ),
    ("etc/hosts", 0o644, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"),
    ("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"),
    (
        "etc/services",
        0o644,
        "ssh\t22/tcp\ndomain\t53/tcp\ndomain\t53/udp\nhttp\t80/tcp\nntp\t123/udp\nhttps\t443/tcp\n",
    ),
    (
        "etc/protocols",
        0o644,
        "ip\t0\tIP\nicmp\t1\tICMP\ntcp\t6\tTCP\nudp\t17\tUDP\nipv6-icmp\t58\tIPv6-ICMP\n",
    ),
];
