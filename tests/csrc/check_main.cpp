#include "check.h"

int main(int argc, char** argv) { return molmoact2::check::run_cases(argc > 1 ? argv[1] : ""); }
