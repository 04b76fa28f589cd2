/* What a configuration of the stand-in's VZ holds. */
#ifndef CONFIGURATION_H
#define CONFIGURATION_H

#include "standin.h"

/* Every object of a configuration: what it was told, by place. */
struct thing {
    object head;
    id ids[9];
    long numbers[2];
};

/* Places in the machine's configuration. */
enum { BOOT_LOADER, PLATFORM, SERIAL_PORTS, ENTROPY, BALLOONS, STORAGE, SHARES, SOCKETS, NETWORK };
enum { CPUS, MEMORY };
/* In a network device. */
enum { ATTACHMENT, ADDRESS };
/* In the boot loader. */
enum { KERNEL, INITRAMFS, CMDLINE };

extern struct class VZVirtualMachineConfiguration __asm__("._OBJC_CLASS_VZVirtualMachineConfiguration");

id slot(id thing, int place);
long number(id thing, int place);
size_t items(id array);
id item(id array, size_t index);
/* A word of the machine's command line switches failures on: `standin.start=fail`. */
bool switched(id configuration, const char *word);
/* All that a state depends on, as a line of text to be freed. */
char *shape_of(id configuration);
/* The arguments of the guest's program, ending with null, each to be freed. */
char **arguments_of(id configuration, bool restored, unsigned memory);

#endif
