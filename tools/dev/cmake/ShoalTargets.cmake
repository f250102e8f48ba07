# shoal_library(NAME SRCS a.cc ... DEPS lib ...)      a static library `shoal_NAME`, alias `shoal::NAME`
# shoal_test(NAME SRCS a_test.cc ... DEPS lib ... [TIMEOUT s] [ARGS ...] [LABELS l ...])  a GoogleTest binary, one CTest entry
# shoal_binary(NAME SRCS ... DEPS ...)                an executable placed at build/NAME
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

if(SHOAL_BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()
function(shoal_test name)
  cmake_parse_arguments(A "" "TIMEOUT" "SRCS;DEPS;ARGS;LABELS" ${ARGN})
  add_executable(${name} ${A_SRCS})
  target_link_libraries(${name} PRIVATE ${A_DEPS} GTest::gmock GTest::gtest GTest::gtest_main)
  add_test(NAME ${name} COMMAND ${name} ${A_ARGS} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 300)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${A_TIMEOUT} LABELS "${A_LABELS}"
    ENVIRONMENT "SHOAL_BINARY=${CMAKE_BINARY_DIR}/shoal;SHOAL_SOURCE_DIR=${CMAKE_SOURCE_DIR}")
endfunction()
