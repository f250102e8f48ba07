// Tested by tests/model/model_config_test.cc, as part of what it implements.
// Boost.JSON is used without its compiled library: this is the one translation unit that holds its implementation.
#include <boost/json/src.hpp>
