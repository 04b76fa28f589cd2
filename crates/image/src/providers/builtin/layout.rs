//! Directories and links of the built-in rootfs.

use vmette_cache::Key;

use super::files::FILES;
use crate::store::key_of;

/// The one program.
pub(super) const BUSYBOX_PATH: &str = "bin/busybox";

/// Directories and their modes; the root is empty.
pub(super) const DIRS: &[(&str, u32)] = &[
    ("", 0o755),
    ("bin", 0o755),
    ("boot", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("etc/profile.d", 0o755),
    ("etc/ssl", 0o755),
    ("etc/ssl/certs", 0o755),
    ("home", 0o755),
    ("lib", 0o755),
    ("lib64", 0o755),
    ("media", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("sbin", 0o755),
    ("srv", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("usr/lib", 0o755),
    ("usr/local", 0o755),
    ("usr/local/bin", 0o755),
    ("usr/local/sbin", 0o755),
    ("usr/sbin", 0o755),
    ("usr/share", 0o755),
    ("var", 0o755),
    ("var/cache", 0o755),
    ("var/empty", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/spool", 0o755),
    ("var/tmp", 0o1777),
];

/// Names that lead to busybox, by directory, with the way from there. A fixed list: asking a busybox means running it,
/// and it may be another architecture's. A name that a busybox was built without says so when it is called.
const APPLETS: &[(&str, &str, &str)] = &[
    (
        "bin",
        "busybox",
        "arch ash base64 cat chgrp chmod chown cp cpio date dd df dmesg dnsdomainname echo ed egrep false \
         fgrep getopt grep gunzip gzip hostname ionice iostat ipcalc kill link linux32 linux64 ln login ls \
         lzop mkdir mknod mktemp more mount mountpoint mpstat mt mv netstat pidof ping ping6 ps pwd \
         readlink rev rm rmdir run-parts sed setarch setpriv sh sleep stat stty su sync tar touch true \
         umount uname uncompress usleep vi watch zcat",
    ),
    (
        "sbin",
        "../bin/busybox",
        "adjtimex arp blkid blockdev depmod devmem fdisk fstrim getty halt hwclock ifconfig ifdown ifup \
         insmod ip ipneigh klogd logread losetup lsmod mdev mkdosfs mke2fs mkfs.vfat mkswap modinfo \
         modprobe nameif pivot_root poweroff reboot rmmod route start-stop-daemon sulogin swapoff swapon \
         switch_root sysctl syslogd tc tunctl udhcpc uevent vconfig watchdog",
    ),
    (
        "usr/bin",
        "../../bin/busybox",
        "[ [[ ar ascii awk basename bc blkdiscard bunzip2 bzcat bzip2 cal chpst cksum clear cmp comm crc32 \
         crontab cryptpw cut dc diff dirname dos2unix du dumpleases eject env envdir expand expr factor \
         fallocate fgconsole find flock fold free ftpget ftpput fuser groups hd head hexdump hostid id \
         install join killall last less logger logname lsof lspci lsusb lzcat lzma md5sum mesg microcom \
         mkfifo mkpasswd nc nl nmeter nohup nproc nsenter nslookup od passwd paste patch pgrep pkill pmap \
         printf pscan pstree realpath renice reset rpm2cpio seq setsid sha1sum sha256sum sha3sum sha512sum \
         shred shuf sort split ssl_client strings sum tac tail taskset tee telnet test tftp time timeout \
         top tr traceroute traceroute6 tree truncate ts tsort tty unexpand uniq unix2dos unlink unlzma \
         unlzop unshare unxz unzip uptime uudecode uuencode vlock volname w wall wc wget which who whoami \
         whois xargs xxd xz xzcat yes",
    ),
    (
        "usr/sbin",
        "../../bin/busybox",
        "addgroup adduser arping brctl chpasswd chroot crond delgroup deluser fbset fsfreeze httpd killall5 \
         nologin ntpd partprobe rdate rdev readprofile rfkill sendmail telnetd udhcpd",
    ),
];

/// Links of another kind.
const OTHER_LINKS: &[(&str, &str)] =
    &[("etc/mtab", "../proc/self/mounts"), ("var/run", "../run"), ("var/lock", "../run/lock")];

/// All symbolic links: path and target.
pub(super) fn links() -> impl Iterator<Item = (String, String)> {
    let applets = APPLETS.iter().flat_map(|&(dir, busybox, names)| {
        names.split_whitespace().map(move |name| (format!("{dir}/{name}"), busybox.to_owned()))
    });
    applets.chain(OTHER_LINKS.iter().map(|&(path, target)| (path.to_owned(), target.to_owned())))
}

/// Changes with everything that the rootfs has besides busybox.
pub(super) fn digest() -> Key {
    let tables = format!("{DIRS:?}{APPLETS:?}{OTHER_LINKS:?}{FILES:?}");
    key_of([tables.as_bytes()])
}
