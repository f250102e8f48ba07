# shoal_library(NAME SRCS a.cc ... DEPS lib ...)      a static library `shoal_NAME`, alias `shoal::NAME`
# shoal_test(NAME SRCS a_test.cc ... DEPS lib ... [TIMEOUT s] [ARGS ...] [LABELS l ...] [SERIAL])
#                                                     a GoogleTest binary, one CTest entry; label `unit` unless told
# shoal_python_test(NAME SCRIPT a.py [ARGS ...] [TIMEOUT s] [LABELS l ...] [VENV] [SERIAL])
#                                                     a Python program as one CTest entry; with VENV it runs in .venv, whose
#                                                     packages tools/dev/requirements-test.txt pins
# shoal_binary(NAME SRCS ... DEPS ...)                an executable placed at build/NAME
# Labels: unit (no other process), cluster (several ranks, threads or processes), e2e (through HTTP), golden (real model),
# gpu_emulated (tests/gpu on emulated devices).
# SERIAL: runs alone, for tests that need the whole machine.

function(shoal_library name)
  cmake_parse_arguments(A "" "" "SRCS;DEPS" ${ARGN})
  add_library(shoal_${name} STATIC ${A_SRCS})
  target_link_libraries(shoal_${name} PUBLIC ${A_DEPS})
  add_library(shoal::${name} ALIAS shoal_${name})
endfunction()

function(shoal_binary name)
  cmake_parse_arguments(A "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${A_SRCS})
  target_link_libraries(${name} PRIVATE ${A_DEPS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
endfunction()

# What every CTest entry has: where the binary and the sources are, a time-out (five times as long under a sanitizer),
# and labels to select by.
function(shoal_test_properties name timeout serial)
  if(NOT timeout)
    set(timeout 300)
  endif()
  if(SHOAL_SANITIZER)
    math(EXPR timeout "${timeout} * 5")
  endif()
  set(labels ${ARGN})
  if(NOT labels)
    set(labels unit)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${timeout} LABELS "${labels}" RUN_SERIAL ${serial}
    ENVIRONMENT "SHOAL_BINARY=${CMAKE_BINARY_DIR}/shoal;SHOAL_SOURCE_DIR=${CMAKE_SOURCE_DIR};SHOAL_BUILD_DIR=${CMAKE_BINARY_DIR}")
endfunction()

if(SHOAL_BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()
function(shoal_test name)
  cmake_parse_arguments(A "SERIAL" "TIMEOUT" "SRCS;DEPS;ARGS;LABELS" ${ARGN})
  add_executable(${name} ${A_SRCS})
  target_link_libraries(${name} PRIVATE ${A_DEPS} GTest::gmock GTest::gtest GTest::gtest_main)
  add_test(NAME ${name} COMMAND ${name} ${A_ARGS} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  shoal_test_properties(${name} "${A_TIMEOUT}" ${A_SERIAL} ${A_LABELS})
endfunction()

function(shoal_python_test name)
  cmake_parse_arguments(A "VENV;SERIAL" "TIMEOUT;SCRIPT" "ARGS;LABELS" ${ARGN})
  set(python python3)
  if(A_VENV)
    set(python ${CMAKE_SOURCE_DIR}/.venv/bin/python)
  endif()
  get_filename_component(script ${A_SCRIPT} ABSOLUTE BASE_DIR ${CMAKE_CURRENT_SOURCE_DIR})
  add_test(NAME ${name} COMMAND ${python} ${script} ${A_ARGS} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  shoal_test_properties(${name} "${A_TIMEOUT}" ${A_SERIAL} ${A_LABELS})
endfunction()
