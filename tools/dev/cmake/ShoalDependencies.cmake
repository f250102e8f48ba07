# System libraries (installed by tools/dev/setup), each as one imported target. Nothing is downloaded here.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(Protobuf REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(spdlog REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(absl REQUIRED)
find_package(CLI11 REQUIRED)
find_package(Boost 1.81 REQUIRED)
if(SHOAL_BUILD_TESTS)
  find_package(Boost 1.81 REQUIRED COMPONENTS context)
endif()
pkg_check_modules(GRPCPP REQUIRED IMPORTED_TARGET grpc++)
find_program(GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)
find_library(GLOO_LIBRARY gloo REQUIRED)
find_library(PROMETHEUS_CORE prometheus-cpp-core REQUIRED)

add_library(shoal_dep_status INTERFACE)
target_link_libraries(shoal_dep_status INTERFACE absl::status absl::statusor absl::strings absl::flat_hash_map absl::flat_hash_set absl::span)
add_library(shoal::dep_status ALIAS shoal_dep_status)

add_library(shoal_dep_grpc INTERFACE)
target_link_libraries(shoal_dep_grpc INTERFACE PkgConfig::GRPCPP protobuf::libprotobuf)
add_library(shoal::dep_grpc ALIAS shoal_dep_grpc)

# Boost.Json and Asio are used header-only: one .cc each includes their implementation.
add_library(shoal_dep_boost INTERFACE)
target_link_libraries(shoal_dep_boost INTERFACE Boost::headers Threads::Threads)
add_library(shoal::dep_boost ALIAS shoal_dep_boost)

add_library(shoal_dep_prometheus INTERFACE)
target_link_libraries(shoal_dep_prometheus INTERFACE ${PROMETHEUS_CORE})
add_library(shoal::dep_prometheus ALIAS shoal_dep_prometheus)

# Activations between hosts. Not its CMake package, which names CUDA and HIP libraries too.
add_library(shoal_dep_gloo INTERFACE)
target_link_libraries(shoal_dep_gloo INTERFACE ${GLOO_LIBRARY})
add_library(shoal::dep_gloo ALIAS shoal_dep_gloo)
