// A libnccl.so.2 of the version that CMakeLists.txt says, and of as much else as the loader looks at first.
extern "C" {

#if FAKE_NCCL_VERSION > 0
int ncclGetVersion(int* version) {
  *version = FAKE_NCCL_VERSION;
  return 0;
}
#endif

int ncclGetUniqueId(void*) { return 0; }

}  // extern "C"
