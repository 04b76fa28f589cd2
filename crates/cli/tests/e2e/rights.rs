//! An ordinary user of the guest may do what one of a container may.

use crate::machine::Vmette;

// busybox's own `ping` knows raw sockets only, so what counts is what the kernel lets others do.
#[test]
fn an_ordinary_user_serves_port_80_and_may_ping_and_open_many_files() {
    let script = "id -u; cat /proc/sys/net/ipv4/ping_group_range
        mkdir /tmp/www && echo page > /tmp/www/index.html && httpd -p 80 -h /tmp/www && wget -q -O - http://localhost/
        wget -q http://localhost:81/; echo $?
        ulimit -S -n; ulimit -H -n; ulimit -n 524288 && ulimit -n";
    Vmette::run(["-q", "-u", "nobody", "-w", "/tmp", "--", "sh", "-c", script])
        .exits(0)
        .printed("65534\n0\t2147483647\npage\n1\n1024\n1048576\n524288\n");
}
