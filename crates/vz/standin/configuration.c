/* Virtualization.framework: configurations. */
#include "configuration.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define DOMAIN "VZErrorDomain"

id slot(id thing, int place) { return ((struct thing *)thing)->ids[place]; }
long number(id thing, int place) { return ((struct thing *)thing)->numbers[place]; }
size_t items(id array) { return array ? ((struct array *)array)->count : 0; }
id item(id array, size_t index) { return ((struct array *)array)->items[index]; }

static void put(struct thing *self, int place, id value) {
    objc_retain(value);
    objc_release(self->ids[place]);
    self->ids[place] = value;
}

static void thing_dealloc(struct thing *self, sel selector) {
    (void)selector;
    for (size_t i = 0; i < sizeof self->ids / sizeof *self->ids; i++)
        objc_release(self->ids[i]);
    free(self);
}

#define ID(PLACE)                                                                                                      \
    static void set_id_##PLACE(struct thing *self, sel selector, id value) {                                           \
        (void)selector;                                                                                                \
        put(self, PLACE, value);                                                                                       \
    }
#define NUMBER(PLACE)                                                                                                  \
    static void set_number_##PLACE(struct thing *self, sel selector, long value) {                                     \
        (void)selector;                                                                                                \
        self->numbers[PLACE] = value;                                                                                  \
    }
ID(0) ID(1) ID(2) ID(3) ID(4) ID(5) ID(6) ID(7) ID(8)
NUMBER(0) NUMBER(1)

static id init_with_0(struct thing *self, sel selector, id value) {
    (void)selector;
    put(self, 0, value);
    return (id)self;
}
static id init_with_1(struct thing *self, sel selector, id value) {
    (void)selector;
    put(self, 1, value);
    return (id)self;
}
static id init_with_url_flag(struct thing *self, sel selector, id url, bool flag) {
    (void)selector;
    put(self, 0, url);
    self->numbers[0] = flag;
    return (id)self;
}

static bool fail(id *error, long code, const char *description, const char *reason) {
    *error = autorelease(new_error(DOMAIN, code, description, reason));
    return false;
}

#define THING(NAME, SUPER, METHODS, CLASS_METHODS) CLASS(NAME, SUPER, struct thing, METHODS, CLASS_METHODS)
#define BASE(NAME)                                                                                                     \
    static struct method NAME##_methods[] = {{"dealloc", (imp)thing_dealloc}, {0}};                                    \
    THING(NAME, &NSObject, NAME##_methods, NULL)
BASE(VZBootLoader)
BASE(VZPlatformConfiguration)
BASE(VZSerialPortConfiguration)
BASE(VZSerialPortAttachment)
BASE(VZEntropyDeviceConfiguration)
BASE(VZMemoryBalloonDeviceConfiguration)
BASE(VZStorageDeviceConfiguration)
BASE(VZStorageDeviceAttachment)
BASE(VZDirectorySharingDeviceConfiguration)
BASE(VZDirectoryShare)
BASE(VZSocketDeviceConfiguration)
BASE(VZNetworkDeviceConfiguration)
BASE(VZNetworkDeviceAttachment)
THING(VZVirtioEntropyDeviceConfiguration, &VZEntropyDeviceConfiguration, NULL, NULL)
THING(VZVirtioTraditionalMemoryBalloonDeviceConfiguration, &VZMemoryBalloonDeviceConfiguration, NULL, NULL)
THING(VZVirtioSocketDeviceConfiguration, &VZSocketDeviceConfiguration, NULL, NULL)

static struct method loader_methods[] = {
    {"initWithKernelURL:", (imp)init_with_0},
    {"setInitialRamdiskURL:", (imp)set_id_1},
    {"setCommandLine:", (imp)set_id_2},
    {0},
};
THING(VZLinuxBootLoader, &VZBootLoader, loader_methods, NULL)

/* The identity of a machine is 16 bytes that nobody else has. */
static id identifier_init(struct thing *self, sel selector) {
    (void)selector;
    unsigned char bytes[16];
    FILE *random = fopen("/dev/urandom", "rbe");
    if (!random || fread(bytes, sizeof bytes, 1, random) != 1)
        fault("no random numbers");
    fclose(random);
    self->ids[0] = new_data(bytes, sizeof bytes);
    return (id)self;
}
static id identifier_init_data(struct thing *self, sel selector, id data) {
    (void)selector;
    if (((struct data *)data)->length != 16) {
        objc_release((id)self);
        return NULL;
    }
    put(self, 0, data);
    return (id)self;
}
static id identifier_data(struct thing *self, sel selector) {
    (void)selector;
    return self->ids[0];
}
static struct method identifier_methods[] = {
    {"init", (imp)identifier_init},
    {"initWithDataRepresentation:", (imp)identifier_init_data},
    {"dataRepresentation", (imp)identifier_data},
    {"dealloc", (imp)thing_dealloc},
    {0},
};
THING(VZGenericMachineIdentifier, &NSObject, identifier_methods, NULL)
static struct method platform_methods[] = {{"setMachineIdentifier:", (imp)set_id_0}, {0}};
THING(VZGenericPlatformConfiguration, &VZPlatformConfiguration, platform_methods, NULL)

static id port_attachment_init(struct thing *self, sel selector, id reading, id writing) {
    (void)selector;
    put(self, 0, writing);
    put(self, 1, reading);
    return (id)self;
}
static struct method port_attachment_methods[] = {
    {"initWithFileHandleForReading:fileHandleForWriting:", (imp)port_attachment_init},
    {0},
};
THING(VZFileHandleSerialPortAttachment, &VZSerialPortAttachment, port_attachment_methods, NULL)
static struct method serial_methods[] = {{"setAttachment:", (imp)set_id_0}, {0}};
THING(VZVirtioConsoleDeviceSerialPortConfiguration, &VZSerialPortConfiguration, serial_methods, NULL)

static id image_init(struct thing *self, sel selector, id url, bool read_only, long caching, long synchronization,
                     id *error) {
    /* 2: through the host's cache. 2: fsync. */
    if (caching != 2 || synchronization != 2)
        fault("a disk image with caching %ld and synchronization %ld", caching, synchronization);
    struct stat image;
    if (stat(path_of(url), &image) != 0 || image.st_size % 512 != 0) {
        objc_release((id)self);
        fail(error, 5, "Invalid disk image.", "The size of a raw image is a multiple of 512.");
        return NULL;
    }
    return init_with_url_flag(self, selector, url, read_only);
}
static struct method image_methods[] = {
    {"initWithURL:readOnly:cachingMode:synchronizationMode:error:", (imp)image_init},
    {0},
};
THING(VZDiskImageStorageDeviceAttachment, &VZStorageDeviceAttachment, image_methods, NULL)
static bool block_validate(struct class *class, sel selector, id identifier, id *error) {
    (void)class, (void)selector;
    size_t length = strlen(text_of(identifier));
    return (length > 0 && length <= 20) || fail(error, 2, "Invalid block device identifier.", NULL);
}
static struct method block_methods[] = {
    {"initWithAttachment:", (imp)init_with_0},
    {"setBlockDeviceIdentifier:", (imp)set_id_1},
    {0},
};
static struct method block_class_methods[] = {{"validateBlockDeviceIdentifier:error:", (imp)block_validate}, {0}};
THING(VZVirtioBlockDeviceConfiguration, &VZStorageDeviceConfiguration, block_methods, block_class_methods)

static struct method directory_methods[] = {
    {"initWithURL:readOnly:", (imp)init_with_url_flag},
    {"dealloc", (imp)thing_dealloc},
    {0},
};
THING(VZSharedDirectory, &NSObject, directory_methods, NULL)
static struct method single_methods[] = {{"initWithDirectory:", (imp)init_with_0}, {0}};
THING(VZSingleDirectoryShare, &VZDirectoryShare, single_methods, NULL)
static bool tag_validate(struct class *class, sel selector, id tag, id *error) {
    (void)class, (void)selector;
    size_t length = strlen(text_of(tag));
    return (length > 0 && length <= 36) || fail(error, 2, "Invalid tag.", NULL);
}
static struct method file_system_methods[] = {
    {"initWithTag:", (imp)init_with_1},
    {"setShare:", (imp)set_id_0},
    {0},
};
static struct method file_system_class_methods[] = {{"validateTag:error:", (imp)tag_validate}, {0}};
THING(VZVirtioFileSystemDeviceConfiguration, &VZDirectorySharingDeviceConfiguration, file_system_methods,
      file_system_class_methods)

/* A link address: six bytes as one number, the first byte the highest. */
static id new_mac(long address);
static id mac_random(struct class *class, sel selector) {
    (void)class, (void)selector;
    unsigned char bytes[6];
    FILE *random = fopen("/dev/urandom", "rbe");
    if (!random || fread(bytes, sizeof bytes, 1, random) != 1)
        fault("no random numbers");
    fclose(random);
    /* Locally administered, of one machine. */
    bytes[0] = (bytes[0] & 0xfc) | 2;
    long address = 0;
    for (int i = 0; i < 6; i++)
        address = address << 8 | bytes[i];
    return autorelease(new_mac(address));
}
static id mac_init_string(struct thing *self, sel selector, id text) {
    (void)selector;
    unsigned bytes[6];
    char end;
    if (sscanf(text_of(text), "%2x:%2x:%2x:%2x:%2x:%2x%c", &bytes[0], &bytes[1], &bytes[2], &bytes[3], &bytes[4],
               &bytes[5], &end) != 6) {
        objc_release((id)self);
        return NULL;
    }
    for (int i = 0; i < 6; i++)
        self->numbers[0] = self->numbers[0] << 8 | bytes[i];
    return (id)self;
}
static struct method mac_methods[] = {
    {"initWithString:", (imp)mac_init_string},
    {"dealloc", (imp)thing_dealloc},
    {0},
};
static struct method mac_class_methods[] = {{"randomLocallyAdministeredAddress", (imp)mac_random}, {0}};
THING(VZMACAddress, &NSObject, mac_methods, mac_class_methods)
static id new_mac(long address) {
    struct thing *mac = (struct thing *)new_object(&VZMACAddress);
    mac->numbers[0] = address;
    return (id)mac;
}
THING(VZNATNetworkDeviceAttachment, &VZNetworkDeviceAttachment, NULL, NULL)
static id frames_init(struct thing *self, sel selector, id handle) {
    (void)selector;
    int type = 0;
    socklen_t length = sizeof type;
    if (getsockopt(((struct handle *)handle)->fd, SOL_SOCKET, SO_TYPE, &type, &length) != 0 || type != SOCK_DGRAM)
        fault("frames through something else than a datagram socket");
    put(self, 0, handle);
    /* Tells the two kinds of attachments apart. */
    self->numbers[0] = 1;
    return (id)self;
}
static struct method frames_methods[] = {{"initWithFileHandle:", (imp)frames_init}, {0}};
THING(VZFileHandleNetworkDeviceAttachment, &VZNetworkDeviceAttachment, frames_methods, NULL)
/* A device without an address of its own would get one from VZ; that is not what the engine relies on. */
static struct method network_methods[] = {{"setAttachment:", (imp)set_id_0}, {"setMACAddress:", (imp)set_id_1}, {0}};
THING(VZVirtioNetworkDeviceConfiguration, &VZNetworkDeviceConfiguration, network_methods, NULL)

/* The whole machine. */
static bool valid(struct thing *self, sel selector, id *error) {
    (void)selector;
    id loader = self->ids[BOOT_LOADER];
    if (!loader || !self->ids[PLATFORM] || self->numbers[CPUS] < 1 || self->numbers[MEMORY] % (1 << 20) != 0)
        return fail(error, 2, "Invalid virtual machine configuration.", "Something is missing.");
    if (switched((id)self, "standin.unsigned"))
        return fail(error, 2, "Invalid virtual machine configuration.",
                    "The process doesn\xe2\x80\x99t have the \xe2\x80\x9c"
                    "com.apple.security.virtualization\xe2\x80\x9d entitlement.");
    for (size_t i = 0; i < items(self->ids[NETWORK]); i++) {
        id device = item(self->ids[NETWORK], i);
        if (!slot(device, ATTACHMENT) || !slot(device, ADDRESS) || switched((id)self, "standin.no-network"))
            return fail(error, 2, "Invalid virtual machine configuration.", "The network device has no attachment.");
    }
    if (switched((id)self, "standin.invalid"))
        return fail(error, 2, "Invalid virtual machine configuration.", "It was asked not to like it.");
    return true;
}
static bool saveable(struct thing *self, sel selector, id *error) {
    (void)selector;
    return !items(self->ids[SHARES]) || fail(error, 10, "A directory sharing device cannot be saved.", NULL);
}
static long cpus_max(void) { return 8; }
static long memory_min(void) { return 64l << 20; }
static long memory_max(void) { return 16l << 30; }
static struct method configuration_methods[] = {
    {"setBootLoader:", (imp)set_id_0},
    {"setPlatform:", (imp)set_id_1},
    {"setSerialPorts:", (imp)set_id_2},
    {"setEntropyDevices:", (imp)set_id_3},
    {"setMemoryBalloonDevices:", (imp)set_id_4},
    {"setStorageDevices:", (imp)set_id_5},
    {"setDirectorySharingDevices:", (imp)set_id_6},
    {"setSocketDevices:", (imp)set_id_7},
    {"setNetworkDevices:", (imp)set_id_8},
    {"setCPUCount:", (imp)set_number_0},
    {"setMemorySize:", (imp)set_number_1},
    {"validateWithError:", (imp)valid},
    {"validateSaveRestoreSupportWithError:", (imp)saveable},
    {"dealloc", (imp)thing_dealloc},
    {0},
};
static struct method configuration_class_methods[] = {
    {"maximumAllowedCPUCount", (imp)cpus_max},
    {"minimumAllowedMemorySize", (imp)memory_min},
    {"maximumAllowedMemorySize", (imp)memory_max},
    {0},
};
THING(VZVirtualMachineConfiguration, &NSObject, configuration_methods, configuration_class_methods)

bool switched(id configuration, const char *word) {
    const char *text = text_of(slot(slot(configuration, BOOT_LOADER), CMDLINE));
    const char *found = strstr(text, word);
    char after = found ? found[strlen(word)] : 'x';
    return after == 0 || after == ' ';
}

char *shape_of(id configuration) {
    char *text = NULL;
    struct data *identifier = (struct data *)slot(slot(slot(configuration, PLATFORM), 0), 0);
    char digits[33];
    for (int i = 0; i < 16; i++)
        sprintf(digits + 2 * i, "%02x", identifier->bytes[i]);
    if (asprintf(&text, "machine %s cpus=%ld memory=%ld disks=%zu shares=%zu\n", digits, number(configuration, CPUS),
                 number(configuration, MEMORY), items(slot(configuration, STORAGE)),
                 items(slot(configuration, SHARES))) < 0)
        fault("no memory");
    return text;
}

__attribute__((format(printf, 2, 3))) static void add(char ***arguments, const char *format, ...) {
    size_t count = 0;
    while (*arguments && (*arguments)[count])
        count++;
    *arguments = realloc(*arguments, (count + 2) * sizeof **arguments);
    __builtin_va_list values;
    __builtin_va_start(values, format);
    if (vasprintf(&(*arguments)[count], format, values) < 0)
        fault("no memory");
    __builtin_va_end(values);
    (*arguments)[count + 1] = NULL;
}

char **arguments_of(id configuration, bool restored, unsigned memory) {
    char **arguments = NULL;
    id loader = slot(configuration, BOOT_LOADER);
    add(&arguments, "%s", path_of(slot(loader, KERNEL)));
    add(&arguments, "%s", text_of(slot(loader, CMDLINE)));
    add(&arguments, "initramfs=%s", path_of(slot(loader, INITRAMFS)));
    add(&arguments, "cpus=%ld", number(configuration, CPUS));
    add(&arguments, "memory=%ld", number(configuration, MEMORY));
    add(&arguments, "entropy=%zu", items(slot(configuration, ENTROPY)));
    add(&arguments, "balloons=%zu", items(slot(configuration, BALLOONS)));
    id disks = slot(configuration, STORAGE), shares = slot(configuration, SHARES);
    for (size_t i = 0; i < items(disks); i++) {
        id disk = item(disks, i), image = slot(disk, 0);
        add(&arguments, "disk=%s:%s:%s", text_of(slot(disk, 1)), number(image, 0) ? "ro" : "rw",
            path_of(slot(image, 0)));
    }
    for (size_t i = 0; i < items(shares); i++) {
        id share = item(shares, i), directory = slot(slot(share, 0), 0);
        add(&arguments, "share=%s:%s:%s", text_of(slot(share, 1)), number(directory, 0) ? "ro" : "rw",
            path_of(slot(directory, 0)));
    }
    id networks = slot(configuration, NETWORK);
    for (size_t i = 0; i < items(networks); i++) {
        id device = item(networks, i);
        add(&arguments, "network=%s:%012lx", number(slot(device, ATTACHMENT), 0) ? "frames" : "nat",
            number(slot(device, ADDRESS), 0));
    }
    if (restored)
        add(&arguments, "restored=%u", memory);
    return arguments;
}
