// A library that loads and is no plug-in.
extern "C" int shoal_test_no_plugin() { return 1; }
