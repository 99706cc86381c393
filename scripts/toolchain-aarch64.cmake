# Cross-compiles for 64-bit ARM Linux with Debian's gcc-aarch64-linux-gnu, and runs what it built under qemu-user.
#   cmake -B build-aarch64 -DCMAKE_TOOLCHAIN_FILE=scripts/toolchain-aarch64.cmake
# QEMU_CPU in the environment chooses the CPU that is emulated; scripts/test_aarch64.sh does so.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)
