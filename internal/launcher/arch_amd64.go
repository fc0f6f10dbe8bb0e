package launcher

const archName = "amd64"
