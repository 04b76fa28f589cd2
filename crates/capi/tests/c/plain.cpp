// C++ sees the same library, with C's linkage.

#include <cstdio>

#include "vmette.h"

int main() {
    VmetteStatus status = vmette_config_set_exec(nullptr, "true");
    if (status != NullArg) {
        return 1;
    }
    std::printf("%s", vmette_version());
}
