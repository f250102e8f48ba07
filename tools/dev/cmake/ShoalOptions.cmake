# Language level, warnings and sanitizers. One place, so that every target is built alike.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Release | Debug | RelWithDebInfo" FORCE)
endif()

option(SHOAL_BUILD_TESTS "Build the tests" ON)
set(SHOAL_SANITIZER "" CACHE STRING "address | thread | empty")

# -ffp-contract=off: a fused multiply-add appears only where a kernel asks for it, so that two builds of one
# kernel round alike (the exactness contract in kernels/README.md).
add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:-Wall;-Wextra;-Werror;-ffp-contract=off;-fno-math-errno>")
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wthread-safety>)
else()
  # GCC 12 reports false positives of these two from inside libstdc++ and Asio coroutines at -O2.
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized> $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()
if(SHOAL_SANITIZER)
  add_compile_options(-fsanitize=${SHOAL_SANITIZER} -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=${SHOAL_SANITIZER})
  if(SHOAL_SANITIZER STREQUAL "address")
    add_compile_options(-fsanitize=undefined -fno-sanitize-recover=undefined)
    add_link_options(-fsanitize=undefined)
  endif()
endif()

find_program(SHOAL_CCACHE ccache)
if(SHOAL_CCACHE)
  set(CMAKE_C_COMPILER_LAUNCHER ${SHOAL_CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${SHOAL_CCACHE})
endif()
include_directories(${CMAKE_SOURCE_DIR})
add_link_options(-Wl,--build-id=sha1)  # common/base/build_id.h reads it
